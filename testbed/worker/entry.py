"""Where a worker begins, for the process that starts it: that one does without torch, which the forkserver loads."""

from __future__ import annotations

from dataclasses import dataclass, field

from testbed.placement.blocks import Partition
from testbed.shape import ModelShape


@dataclass(frozen=True)
class WorkerConfig:
    """Everything a worker needs before its first command; travels over the forkserver's own pipe."""

    device: str
    shape: ModelShape
    model_path: str | None  # a checkpoint directory, or None for seeded random weights
    model_seed: int
    positions: int  # longest sequence of the run
    prefill_chunk: int
    partition: Partition
    bind: str  # data address, e.g. tcp://10.0.0.1:5555 or ipc:///run/headroom/…/data-0
    secret: bytes | None = field(repr=False)  # what peers show each other; None where no stranger can reach the address
    most_bytes: int  # of one frame; who sends a longer one is cut off
    control: str  # folder of the control sockets
    netns_pid: int | None  # a process in the Mininet host's network namespace
    cgroup_procs: str | None  # file to write 0 to, to join the device's cgroup
    paced: bool
    dilation: float
    switch_interval_s: float  # how soon the receiving thread gets the interpreter from a spinning main thread
    tight_heap: bool  # whether memory goes back to the kernel at once, which costs mappings


def run_worker(config: WorkerConfig) -> None:
    """Process entry, in a child of the forkserver."""
    from testbed.worker.main import run

    run(config)
