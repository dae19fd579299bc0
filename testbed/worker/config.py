"""What a worker is told when it starts. Without the decoder, which the process that starts workers does not need."""

from __future__ import annotations

from dataclasses import dataclass, field

from testbed.decoder.stored import StoredModel
from testbed.device_model import PLAIN, DeviceModel
from testbed.placement.blocks import Partition
from testbed.shape import ModelShape


@dataclass(frozen=True)
class WorkerConfig:
    """Everything a worker needs before its first command. It travels over the forkserver's own pipe."""

    device: str
    shape: ModelShape
    stored: StoredModel | None = field(repr=False)  # a checkpoint's tensors, or None for random weights
    model_seed: int
    positions: int  # the longest sequence of the run
    prefill_chunk: int
    partition: Partition
    bind: str  # the data address, for example tcp://10.0.0.1:5555 or ipc:///run/headroom/…/data-0
    secret: bytes | None = field(repr=False)  # peers show it to each other; None where no stranger reaches the address
    most_bytes: int  # a peer that sends a longer frame is disconnected
    control: str  # the folder of the control sockets
    netns_pid: int | None  # a process in the Mininet host's network namespace
    cgroup_procs: str | None  # a process joins the device's cgroup by writing 0 to this file
    paced: bool
    dilation: float
    switch_interval_s: float  # how soon another thread gets the interpreter from a main thread that spins
    tight_heap: bool  # give freed memory back to the kernel at once, at the price of more mappings
    beats: str | None = None  # the path of the socket for heartbeats; None: it sends none
    model: DeviceModel = PLAIN  # with which the pacing counts FLOPs and bytes
