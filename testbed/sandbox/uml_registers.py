"""Lets User-Mode Linux run on processors with more registers than it knows.

It sets the registers of its guest's processes by ptrace(2), up to those of AVX-512. A kernel whose processor has AMX
expects all of them and answers EFAULT, and the guest's first process dies. A few lines of C, preloaded, add the
missing ones as registers at rest, which a guest cannot use anyway. Linux 6.13 has no such limit (arch/x86/um/os-Linux).
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from testbed.errors import EnvironmentLacks
from testbed.programs import complaint, find_program

SOURCE = Path(__file__).with_suffix(".c")
COMPILERS = ("tcc", "cc")
REMEDY = "apt-get install tcc"
CPUINFO = Path("/proc/cpuinfo")


def needed() -> bool:
    """Whether this host's processor has such registers."""
    return any(" amx_tile" in line for line in CPUINFO.read_text().splitlines() if line.startswith("flags"))


def lacking() -> str | None:
    """One sentence on what is missing to run a guest on this processor, or None."""
    if not needed() or any(map(find_program, COMPILERS)):
        return None
    return (
        "this processor has AMX, whose registers User-Mode Linux must be taught, and there is no C compiler for it "
        f"({' or '.join(COMPILERS)}): {REMEDY}"
    )


def preloads(folder: Path) -> dict[str, str]:
    """The environment that a guest's kernel needs on this host. The library that it loads is compiled into `folder`."""
    if not needed():
        return {}
    compiler = next(name for name in COMPILERS if find_program(name))
    library = folder / "registers.so"
    done = subprocess.run(
        [compiler, "-shared", "-fPIC", "-nostdlib", "-o", library, SOURCE], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = complaint(done.returncode, done.stderr)[:200]
        raise EnvironmentLacks(f"{compiler} could not compile {SOURCE}, which the sandbox needs here: {said}")
    return {"LD_PRELOAD": str(library)}
