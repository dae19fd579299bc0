"""Finds the decoder's kernels as a library of machine code, or compiles them, and loads them.

The name of the library has a digest of all it is made from, so a changed source is compiled anew and an old library is
never taken for a new one. It lies in the `__pycache__` beside the source, which git and copies of the tree ignore, or,
where that cannot be written, in the user's own cache folder. `script/setup` compiles it; otherwise the first use does.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import platform
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from testbed.errors import EnvironmentLacks
from testbed.programs import complaint, find_program, search_path

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
    folders = [folder for folder in (SOURCE.parent / "__pycache__", _own_cache()) if folder.is_absolute()]
    for folder in folders:
        if os.path.exists(folder / name) and _is_safe(folder):
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
    for folder in folders:
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


def _own_cache() -> Path:
    caches = os.environ.get("XDG_CACHE_HOME", "")
    return Path(caches if os.path.isabs(caches) else os.path.expanduser("~/.cache")) / "headroom"


def _is_safe(folder: Path) -> bool:
    """Whether nobody else can put a library there, which would then be run, that could not change this code as well."""
    if folder.parent == SOURCE.parent:
        return True
    found = folder.stat()
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _compile(compiler: str, folder: Path, name: str) -> Path:
    """Compile the library into a folder; raises OSError if the folder takes none.

    The library appears under its name when it is whole, so processes may do this at the same time.
    """
    folder.mkdir(mode=0o777 if folder.parent == SOURCE.parent else 0o700, parents=True, exist_ok=True)
    if not _is_safe(folder):
        raise PermissionError(errno.EPERM, "it is another user's, or others can write to it")
    descriptor, made = tempfile.mkstemp(prefix=f"{name}.", dir=folder)
    os.close(descriptor)
    try:
        done = subprocess.run(
            [compiler, *FLAGS, "-o", made, str(SOURCE)],
            env={**os.environ, "PATH": search_path(os.environ.get("PATH")), "LC_ALL": "C"},
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )
        if done.returncode != 0:
            errors = [line for line in done.stderr.splitlines() if "error" in line]
            said = (errors or [complaint(done.returncode, done.stderr)])[0].strip()[:200]
            raise EnvironmentLacks(f"{compiler} could not compile {SOURCE} ({said}); where a part is missing: {REMEDY}")
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
