"""Compiling functions with numba: kept on disk, and without reference counts (ADR 12).

Importing this module loads numba: import it, and what uses it, only where compiled functions are called.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba

from testbed.placement.blocks import Partition
from testbed.placement.observation import DeviceView, LinkView, Observation
from testbed.shape import ModelShape

OPTIONS: dict[str, Any] = {"error_model": "numpy", "_nrt": False}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as machine code, kept on disk where any place for it can be written.

    The place is beside its file, or the user's cache folder where that is read-only. The function is compiled without
    numba's reference counts: counting the arrays of its tuples would cost each call a hundred times what most of these
    functions do. So a compiled function cannot make arrays, only use those it is given.
    """
    try:
        machine_code = numba.njit(cache=True, **OPTIONS)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache folder is writable
        return numba.njit(**OPTIONS)(function)  # type: ignore[no-any-return]
    # numba compiles anew when the function's own file has changed. Here numbers and inlined parts of other files are
    # in the machine code too, so a change in any of them counts.
    kept = machine_code._cache._cache_file
    kept._source_stamp = kept._source_stamp, _digest(Path(inspect.getfile(function)).parent)
    return machine_code  # type: ignore[no-any-return]


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """A part of compiled functions, put in where it is used: passing large tuples would take longer than it does."""
    return numba.njit(inline="always", **OPTIONS)(function)  # type: ignore[no-any-return]


def smallest_observation() -> Observation:
    """Two devices and one layer: what a compiled search is run on once, so that no decision has to wait for compiling.

    Memory is so little that the search looks for every start.
    """
    shape = ModelShape("warm-up", 1, 8, 1, 1, 8, 8, 8, 8)
    views = tuple(DeviceView(name, 2**11, 1e9, 1e9, 1e9) for name in "ab")
    links = {view.name: LinkView(1e9, 1e9, 0.0, 0.0) for view in views}
    return Observation(shape, Partition(), "a", views, links, 1, 0, 4, 2)


@lru_cache(maxsize=8)
def _digest(folder: Path) -> str:
    """Of all the source files from which compiled functions of a folder can take parts: its own, and this one's."""
    digest = hashlib.sha256()
    for path in sorted({*folder.glob("*.py"), *Path(__file__).parent.glob("*.py")}):
        digest.update(path.read_bytes())
    return digest.hexdigest()
