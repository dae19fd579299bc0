"""Finds the decoder's kernels as a library of machine code, or compiles them, and loads them.

`script/setup` compiles the library; otherwise the first use does.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path

from testbed import kept_library
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
    return kept_library.load(_library_name(), SOURCE.parent, SOURCE.name, _compile)


def _library_name() -> str:
    """The file name of the library that these sources make on this kind of machine."""
    digest = hashlib.sha256("\0".join((platform.machine(), *FLAGS)).encode())
    for file in (SOURCE, *INCLUDED):
        digest.update(file.read_bytes())
    return f"kernels-{digest.hexdigest()[:16]}.so"


def _compile(made: Path) -> None:
    compiler = next(filter(None, map(find_program, COMPILERS)), None)
    if compiler is None:
        raise EnvironmentLacks(
            f"there is no C compiler ({' or '.join(COMPILERS)}) to compile {SOURCE.name}, the decoder's arithmetic: "
            f"{REMEDY}"
        )
    try:
        done = subprocess.run(
            [compiler, *FLAGS, "-o", str(made), str(SOURCE)],
            env={**os.environ, "PATH": search_path(os.environ.get("PATH")), "LC_ALL": "C"},
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise EnvironmentLacks(f"{compiler} did not compile {SOURCE} within {_SECONDS} s") from error
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if "error" in line]
        said = (errors or [complaint(done.returncode, done.stderr)])[0].strip()[:200]
        raise EnvironmentLacks(f"{compiler} could not compile {SOURCE} ({said}); where a part is missing: {REMEDY}")


if __name__ == "__main__":  # for script/setup
    try:
        load()
    except EnvironmentLacks as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
