"""What a device's process shares with the forkserver stays shared."""

from __future__ import annotations

import gc
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


def test_a_garbage_collection_copies_nothing_that_the_forkserver_has_loaded() -> None:
    context = forkserver()
    ours, theirs = context.Pipe()
    process = context.Process(target=collect_garbage, args=(theirs,))
    start_process(process)
    assert ours.poll(60)
    before, grown = ours.recv()
    process.join()
    assert grown < MIB, f"a collection made {grown / MIB:.1f} MiB of shared memory private, beside {before / MIB:.1f}"
