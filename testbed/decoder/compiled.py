"""Finds the decoder's kernels as a library of machine code, or compiles them, and loads them.

The name of the library has a digest of all it is made from, so a changed source is compiled anew and an old library is
never taken for a new one. It lies in the `__pycache__` beside the source, which git and copies of the tree ignore, or,
where that cannot be written, in the user's own cache folder. `script/setup` compiles it; otherwise the first use does.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from testbed.errors import EnvironmentLacks
from testbed.programs import complaint, find_program

SOURCE = Path(__file__).with_name("kernels.c")
INCLUDED = tuple(sorted(SOURCE.parent.glob("kernels_*.h")))
COMPILERS = ("gcc", "cc")
# Without -ffp-contract=off a compiler may join a multiplication and an addition, which rounds once instead of twice.
# No -march: the library chooses its code by the processor that it runs on.
FLAGS = ("-O3", "-std=gnu11", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-shared", "-fPIC", "-w")
REMEDY = "apt-get install gcc libc6-dev"
_SECONDS = 300  # compiling takes 5 s; under User-Mode Linux on a busy host ten times that


def load() -> ctypes.CDLL:
    """The kernels, compiled first if they have not been; raises EnvironmentLacks if they cannot be."""
    name = _library_name()
    for folder in _folders():
        if (folder / name).exists():
            try:
                return ctypes.CDLL(str(folder / name))
            except OSError:  # damaged, or on a file system from which nothing may run
                continue
    compiler = next(filter(None, map(find_program, COMPILERS)), None)
    if compiler is None:
        raise EnvironmentLacks(
            f"there is no C compiler ({' or '.join(COMPILERS)}) to compile {SOURCE.name}, the decoder's arithmetic: "
            f"{REMEDY}"
        )
    reasons = []
    for folder in _folders():
        try:
            return ctypes.CDLL(str(_compile(compiler, folder, name)))
        except OSError as error:
            reasons.append(f"{folder}: {error.strerror or error}")
    raise EnvironmentLacks(
        f"there is no folder for the compiled {SOURCE.name} ({'; '.join(reasons)}): make one of them writable, or set "
        "XDG_CACHE_HOME to a folder of yours"
    )


def _library_name() -> str:
    """The file name of the library that these sources make on this kind of machine."""
    digest = hashlib.sha256("\0".join((platform.machine(), *FLAGS)).encode())
    for file in (SOURCE, *INCLUDED):
        digest.update(file.read_bytes())
    return f"kernels-{digest.hexdigest()[:16]}.so"


def _folders() -> Iterator[Path]:
    """The folders where the library may lie, the best first.

    Nobody else may be able to write to the second one: what lies there is run.
    """
    yield SOURCE.parent / "__pycache__"
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    own = Path(caches) / "headroom"
    if not own.is_absolute():
        return
    try:
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = own.stat()
    except OSError:
        return
    if found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield own


def _compile(compiler: str, folder: Path, name: str) -> Path:
    """Compile the library into a folder; raises OSError if the folder takes no file.

    The library appears under its name when it is whole, so processes may do this at the same time.
    """
    folder.mkdir(exist_ok=True)
    descriptor, made = tempfile.mkstemp(prefix=f"{name}.", dir=folder)
    os.close(descriptor)
    try:
        done = subprocess.run(
            [compiler, *FLAGS, "-o", made, str(SOURCE)], capture_output=True, text=True, check=False, timeout=_SECONDS
        )
        if done.returncode != 0:
            said = complaint(done.returncode, done.stderr)[:200]
            raise EnvironmentLacks(f"{compiler} could not compile {SOURCE}: {said}; it may lack a part: {REMEDY}")
        os.chmod(made, 0o755)  # for other users of this tree, too
        os.replace(made, folder / name)
    except subprocess.TimeoutExpired as error:
        raise EnvironmentLacks(f"{compiler} did not compile {SOURCE} within {_SECONDS} s") from error
    finally:
        Path(made).unlink(missing_ok=True)
    return folder / name


if __name__ == "__main__":  # for script/setup
    try:
        load()
    except EnvironmentLacks as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
