"""What a device's process shares with the forkserver stays shared."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from testbed.emulation.spawn import forkserver, start_process

MIB = 2**20


def private_bytes() -> int:
    """Memory of this process that is its own, smaps_rollup in proc(5)."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def collect_garbage(answer: Connection) -> None:
    before = private_bytes()
    gc.collect()
    answer.send((before, private_bytes() - before))


def measured() -> tuple[int, int]:
    """(private bytes before a collection, bytes it added) in a child of the forkserver."""
    ours, theirs = forkserver().Pipe()
    process = forkserver().Process(target=collect_garbage, args=(theirs,))
    start_process(process)
    assert ours.poll(60)
    found: tuple[int, int] = ours.recv()
    process.join()
    return found


def test_a_garbage_collection_copies_nothing_that_the_forkserver_has_loaded() -> None:
    # In a process of its own: a process has one forkserver, and another test may have started it for something else.
    program = "import test_emulation_spawn; print(*test_emulation_spawn.measured())"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=90
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    before, grown = map(int, run.stdout.split())
    assert grown < MIB, f"a collection made {grown / MIB:.1f} MiB of shared memory private, beside {before / MIB:.1f}"
