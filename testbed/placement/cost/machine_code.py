"""Compiled functions: from a library that numba made before, or by numba in this process (ADRs 12 and 27).

Functions that a search spends its time in are marked `compiled`, and their parts `inlined`. Importing a module that has
some loads the library, or has it made, which takes a minute: import it only where the functions are called.
"""

from __future__ import annotations

import ctypes
import hashlib
import platform
import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from testbed import kept_library
from testbed.errors import EnvironmentLacks
from testbed.placement.blocks import Partition
from testbed.placement.cost.native import NativeFunction, Overloads, table_of
from testbed.placement.observation import DeviceView, LinkView, Observation
from testbed.programs import complaint, find_program
from testbed.shape import ModelShape

OPTIONS: dict[str, Any] = {"error_model": "numpy", "_nrt": False}
LINKERS = ("gcc", "cc")
FOLDERS = ("cost", "local", "annealing")  # all that compiled functions take parts and numbers from
_PLACEMENT = Path(__file__).resolve().parents[1]
_SECONDS = 1800  # compiling takes a minute

# Machine code is for one of LLVM's kinds of processors, not for this very one: a guest or a copy on another machine can
# use it, too. What an x86-64-v3 has is called so in /proc/cpuinfo.
_V3, _V3_FLAGS = "x86-64-v3", frozenset(("avx2", "bmi1", "bmi2", "fma", "f16c", "movbe", "abm"))

by_numba: dict[str, Any] | None = None  # the functions by name, while a library is made of them


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as machine code, to be called from Python.

    It is compiled without numba's reference counts: counting the arrays of its tuples would cost each call a hundred
    times what most of these functions do. So a compiled function cannot make arrays, only use those it is given.
    """
    name = f"{function.__module__}.{function.__qualname__}"
    kept = _kept()
    if kept is not None:
        library, table = kept
        return NativeFunction(library, name, table[name])
    made = _by_numba(function)
    if by_numba is not None:
        by_numba[name] = made
    return made


def called(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that only compiled functions call."""
    return function if _kept() is not None else _by_numba(function)


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """A part of compiled functions, put in where it is used: passing large tuples would take longer than it does."""
    return function if _kept() is not None else _by_numba(function, inline="always")


def _by_numba(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    import numba

    return numba.njit(**OPTIONS, **options)(function)  # type: ignore[no-any-return]


@lru_cache(maxsize=1)
def is_there() -> bool:
    """Whether the library has been made, so that compiled functions are there at once."""
    return kept_library.load_kept(_name(), _PLACEMENT) is not None


def smallest_observation() -> Observation:
    """Two devices and one layer: what a compiled search is run on once, so that no decision has to wait for compiling.

    Memory is so little that the search looks for every start.
    """
    shape = ModelShape("warm-up", 1, 8, 1, 1, 8, 8, 8, 8)
    views = tuple(DeviceView(name, 2**11, 1e9, 1e9, 1e9) for name in "ab")
    links = {view.name: LinkView(1e9, 1e9, 0.0, 0.0) for view in views}
    return Observation(shape, Partition(), "a", views, links, 1, 0, 4, 2)


def _kept() -> tuple[ctypes.CDLL, dict[str, Overloads]] | None:
    return _library() if by_numba is None else None


@lru_cache(maxsize=1)
def _library() -> tuple[ctypes.CDLL, dict[str, Overloads]] | None:
    """The library and its table; None where none can be made, and so every process compiles for itself."""
    try:
        library = kept_library.load(_name(), _PLACEMENT, "search", _make)
    except EnvironmentLacks:
        return None
    return library, table_of(library)


def _make(made: Path) -> None:
    """Have a process of its own compile the functions and link them into a library."""
    linker = next(filter(None, map(find_program, LINKERS)), None)
    if linker is None:
        raise EnvironmentLacks(f"there is no linker ({' or '.join(LINKERS)}) for the compiled search")
    command = [sys.executable, "-m", "testbed.placement.compile", linker, processor(), str(made)]
    done = subprocess.run(
        command, cwd=_PLACEMENT.parents[1], capture_output=True, text=True, check=False, timeout=_SECONDS
    )
    if done.returncode:
        raise EnvironmentLacks(f"the search could not be compiled: {complaint(done.returncode, done.stderr)}")


def _name() -> str:
    return f"search-{_digest()}.so"


def _digest() -> str:
    """Of the source files and of the kind of processor that they are compiled for."""
    digest = hashlib.sha256(f"{platform.machine()} {processor()} {OPTIONS}".encode())
    for folder in FOLDERS:
        for path in sorted((_PLACEMENT / folder).glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def processor() -> str:
    """The kind of processor that machine code is made for here, by LLVM's name."""
    if platform.machine() != "x86_64":
        return "generic"
    try:
        with open("/proc/cpuinfo") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        flags = ""
    return _V3 if set(flags.split()) >= _V3_FLAGS else "x86-64"


if __name__ == "__main__":  # for script/setup
    sys.exit(_library() is None)
