"""How long this host takes for an operation when several devices compute at once, as workers do it.

Each device computes three heads of GPT-2 and sends its result to all others, whose results are the input of its next
operation. That is an all-to-all exchange, the most that a plan asks of a host. It uses a worker's own blocks, inbox,
outbox and pacer over loopback, and knows nothing of plans. `testbed.controller.host_speed` says what is too fast.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise, product
from multiprocessing.connection import Connection, wait
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from testbed.controller.host_speed import HostSpeed, Together
from testbed.errors import RunFailed
from testbed.formats import FORMATS
from testbed.temporary import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    import zmq

    from testbed.placement.blocks import Partition
    from testbed.shape import ModelShape

COUNTS = (1, 2, 4, 8)  # devices that compute at once; for more, times are assumed to grow with their number
HEADS = (0, 1, 2)  # a quarter of a layer's heads
LAYERS = 3  # used in turn, so that none stays in a core's own cache
POSITION = 32
DUE_S = 2.5e-3  # how long the emulated devices take for an operation
ATTEMPTS = 6  # parts of a measurement; the best counts, because other work makes times longer and never shorter
OPERATIONS = 96  # of all devices together in one part
ROUNDS_LEAST = 8  # operations of each device in one part, at least
WARM_ROUNDS = 10
STREAM_BYTES = 64 * 2**20  # for each core
STREAMERS_MOST = 8
GROUPS = 16  # the sorted times are kept as the means of so many groups
PATIENCE_S = 20.0


class NoAnswer(RunFailed):
    """A measuring process makes no progress."""


def measure_speed(counts: tuple[int, ...] = COUNTS) -> tuple[HostSpeed, float]:
    """This host's speed, and the share of its cores that others used meanwhile; takes a few seconds."""
    from testbed.emulation.host_usage import host_usage
    from testbed.emulation.spawn import call, forkserver

    call(forkserver(), _ready)  # so that its loading is not measured
    before = host_usage()
    cores = len(os.sched_getaffinity(0))
    streams = _in_devices(min(cores, STREAMERS_MOST), _stream)
    packed_Bps = {name: min(each[name] for each in streams) for name in FORMATS}
    speed = HostSpeed(cores, packed_Bps["float32"], tuple(_measure(count) for count in counts), packed_Bps)
    after = host_usage()
    if before is None or after is None:
        return speed, 0.0
    ours = (after.idle_s - before.idle_s) + (after.own_s - before.own_s)
    return speed, max(0.0, 1 - ours / ((after.at_s - before.at_s) * after.cores))


def _ready() -> None:
    """Does nothing, in a child of the forkserver."""


def _measure(count: int) -> Together:
    rounds = max(ROUNDS_LEAST, OPERATIONS // count)
    found = _exchange(count, rounds)
    times, waited_s = [every for every, _ in found], fmean(waited_s for _, waited_s in found)
    parts = []
    for part in range(ATTEMPTS):
        first = WARM_ROUNDS + part * rounds
        parts.append([time_s for every in times for time_s in every[first : first + rounds]])
    best = sorted(min(parts, key=sum))
    bounds = [round(each * len(best) / GROUPS) for each in range(GROUPS + 1)]
    means = [fmean(best[first:last]) for first, last in pairwise(bounds)]
    return Together(count, _read_bytes(), tuple(round(mean, 6) for mean in means), round(waited_s, 6))


def _exchange(count: int, rounds: int) -> list[tuple[list[float], float]]:
    """The times and the mean wait of each device. One repetition is allowed: a single stopped device stops all."""
    with temporary_folder("headroom-doctor-") as folder:
        try:
            return _in_devices(count, _compute, folder, rounds)
        except NoAnswer:
            return _in_devices(count, _compute, folder, rounds)


def _shape() -> tuple[ModelShape, Partition]:
    from testbed.models.presets import PRESETS
    from testbed.placement.blocks import Partition

    return replace(PRESETS["gpt2"], layers=LAYERS, positions=POSITION + 1), Partition(ffn_shards=2, proj_rows=True)


def _read_bytes() -> float:
    """Bytes that one operation reads."""
    from testbed.placement.blocks import Block, block_read_bytes

    shape, partition = _shape()
    return len(HEADS) * block_read_bytes(shape, Block("head", 0), POSITION + 1, partition)


def _in_devices(count: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `work` returns in so many processes at once; raises RunFailed where one fails or takes too long."""
    from testbed.emulation.spawn import end_processes, forkserver, start_process

    context = forkserver()
    processes, pipes = [], []
    try:
        for index in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_device, args=(theirs, work, index, count, *arguments))
            start_process(process)
            theirs.close()
            processes.append(process)
            pipes.append(ours)
        addresses = _hear(pipes)
        for pipe in pipes:
            pipe.send(addresses)
        return _hear(pipes)
    finally:
        end_processes(processes)


def _hear(pipes: Sequence[Connection]) -> list[Any]:
    """One answer from each pipe; raises the first problem that one of them reports."""
    answers: dict[Connection, Any] = {}
    deadline = time.monotonic() + PATIENCE_S
    while len(answers) < len(pipes):
        ready = wait([pipe for pipe in pipes if pipe not in answers], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise NoAnswer(f"a measuring process did not answer within {PATIENCE_S:g} s: this host is far too busy")
        for pipe in ready:
            assert isinstance(pipe, Connection)
            try:
                answers[pipe], problem = pipe.recv()
            except EOFError:
                raise RunFailed("a measuring process ended before it answered") from None
            if problem is not None:
                raise problem
    return [answers[pipe] for pipe in pipes]


# --- in the devices ----------------------------------------------------------------------------------------


def _device(pipe: Connection, work: Callable[..., Any], index: int, count: int, *arguments: Any) -> None:
    from testbed.emulation.host import switch_interval_s
    from testbed.worker.libc import use_precise_timers
    from testbed.worker.parent_death import end_with_parent

    end_with_parent()
    use_precise_timers()
    sys.setswitchinterval(switch_interval_s())
    try:
        pipe.send((work(pipe, index, count, *arguments), None))
    except Exception as problem:
        pipe.send((None, RunFailed(f"{type(problem).__name__}: {problem}")))


def _stream(pipe: Connection, index: int, count: int) -> dict[str, float]:
    from testbed.emulation.host import streaming_Bps

    pipe.send((None, None))
    pipe.recv()  # all are ready
    return {name: streaming_Bps(STREAM_BYTES, name) for name in FORMATS}


def _compute(pipe: Connection, index: int, count: int, folder: Path, rounds: int) -> tuple[list[float], float]:
    """How long after its last input each operation was done, and its mean wait for a core: wall seconds."""
    import numpy as np

    from testbed.decoder.store import BlockStore
    from testbed.decoder.weights import RandomWeights
    from testbed.placement.blocks import Block
    from testbed.transport.data import Activation
    from testbed.worker.core_waits import ProcessWaits
    from testbed.worker.inbox import Inbox
    from testbed.worker.outbox import Outbox
    from testbed.worker.pacing import Pacer
    from testbed.worker.scheduling import Precedence, put_first, transport_threads

    names = [f"d{each}" for each in range(count)]
    peers = [names[(index + each) % count] for each in range(1, count)]
    with _sockets(folder, names[index]) as (line, plane):
        inbox, outbox = Inbox(line, plane), Outbox(names[index], plane)
        for thread in transport_threads():
            put_first(thread)
        pipe.send((plane.address, None))
        plane.know(dict(zip(names, pipe.recv(), strict=True)))
        plane.connect(peers)
        inbox.start()
        pacer = Pacer(True, 1.0, Precedence())
        read_bytes, (shape, partition) = _read_bytes(), _shape()
        pacer.streaming_Bps = read_bytes / DUE_S
        store = BlockStore(shape, RandomWeights(shape, 0, partition), shape.positions, partition)
        for layer, head in product(range(LAYERS), HEADS):
            store.add(Block("head", layer, head))
        x, row = np.zeros((1, shape.width), np.float32), bytes(4 * shape.width)
        waiting: dict[int, list[float]] = {}
        times, ready_s, waits, waited_s = [], time.monotonic(), ProcessWaits(), 0.0
        for step in range(WARM_ROUNDS + ATTEMPTS * rounds):

            def attend(layer: int = step % LAYERS) -> float:
                store.heads(layer, HEADS, x, POSITION)
                return time.monotonic()

            if step == WARM_ROUNDS:
                waited_s = waits.seconds() - pacer.made_up_s
            done_s, timing = pacer.run(attend, [(0.0, read_bytes)], ready_s)
            times.append(done_s - ready_s)
            for peer in peers:
                outbox.send(peer, Activation("", 0.0, 0.0, 0.0, 0, step, 0, "x", step, 1, 0.0, 0.0), row)
            pacer.stand_back()
            arrived = waiting.setdefault(step, [])
            while len(arrived) < len(peers):
                delivery = inbox.get()
                header = delivery.content[0]  # type: ignore[index]
                waiting.setdefault(header.step, []).append(delivery.due_s)
            ready_s = max([timing.end_s, *waiting.pop(step)])
        return times, max(0.0, waits.seconds() - pacer.made_up_s - waited_s) / (ATTEMPTS * rounds)


@contextmanager
def _sockets(folder: Path, name: str) -> Iterator[tuple[Any, Any]]:
    """A worker's line to a controller that does not exist, and its data plane; they end with the process."""
    import zmq

    from testbed.transport.control import ControlLine
    from testbed.transport.data import DataPlane

    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield ControlLine(context, folder, name), DataPlane("tcp://127.0.0.1:*")
