"""What an idle link and netem really add: delay, jitter, and the share of datagrams that are lost, in each direction.

Both ends share the host's clock. A datagram carries its sending time, and the receiver's kernel stamps its arrival, so
no round trip has to be halved. It knows two network namespaces and a queue between them, like `bench_link`. Delays are
judged by the rule of a run's verdict.
"""

from __future__ import annotations

import math
import socket
import statistics
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from testbed.controller.link_errors import DELAY_FLOORS, tolerance_s
from testbed.doctor.bench_link import ATTEMPTS, Path
from testbed.doctor.capture import SO_TIMESTAMPNS
from testbed.emulation.shaping import Netem, in_netns
from testbed.worker.pacing import Pacer

DELAYS_S = (1e-3, 5e-3, 20e-3, 100e-3)
JITTERS_S = (1e-3, 3e-3)
LOSSES = (0.01, 0.05, 0.2)
RATE_BPS = 100e6
PACE_COUNT, PACE_S = 50, 1e-3  # as before a run
LOSS_DEVIATIONS = 4.0  # standard deviations of a binomial count; by chance 1 measurement in 16 000 is further off
DELAY_COUNT = 40
JITTER_SHARES = 0.5, 1.25  # of an asked jitter: netem shows less than it is asked for
JITTER_COUNT = 200
JITTER_DELAY_S = 10e-3  # around which delays vary
_LOW, _HIGH = 0.1, 0.9  # the shares of datagrams between which delays vary by 1.6 times a uniform jitter
LOSS_COUNT = 4000

_SPACING_S = 2e-3
_LOSS_BATCH = 250  # datagrams in a row; the queues and the receiver's buffer hold twice as many
_PATIENCE_S = 2.0
_DATAGRAM = struct.Struct("=d")
_STAMP = struct.Struct("=qq")
_BUFFER_BYTES = 1 << 21


@dataclass(frozen=True)
class DelayMeasured:
    """A delay that was asked for, and what it added to the time without one; seconds, one way."""

    asked_s: float
    added_s: float  # the difference of the medians
    p95_s: float  # the 95th percentile with the delay, less the median without
    late_s: float  # by which this host may deliver a message late

    @property
    def off_s(self) -> float:
        """How far it is off."""
        return abs(self.added_s - self.asked_s)

    @property
    def allowed_s(self) -> float:
        """How far it may be off, as in a run."""
        return tolerance_s(self.asked_s, self.late_s)

    @property
    def ok(self) -> bool:
        """Whether it is within the tolerance."""
        return self.off_s <= self.allowed_s


@dataclass(frozen=True)
class JitterMeasured:
    """A jitter that was asked for, and the one that delays showed; seconds."""

    asked_s: float
    shown_s: float

    @property
    def ok(self) -> bool:
        """Whether it is as large as can be expected of netem."""
        least, most = JITTER_SHARES
        return least * self.asked_s <= self.shown_s <= most * self.asked_s


@dataclass(frozen=True)
class LossMeasured:
    """A share of loss that was asked for, and how many of the sent datagrams were lost."""

    asked: float
    sent: int
    lost: int

    @property
    def allowed(self) -> float:
        """How far the count may be from its mean."""
        return LOSS_DEVIATIONS * math.sqrt(self.sent * self.asked * (1 - self.asked))

    @property
    def ok(self) -> bool:
        """Whether it is within the binomial bounds."""
        return abs(self.lost - self.sent * self.asked) <= self.allowed


def host_late_s() -> float:
    """By how much this host may deliver a message late: some pacing floors, each how late an empty operation ends."""
    return DELAY_FLOORS * _p95(sorted(Pacer(True, 1.0).lateness(PACE_COUNT, PACE_S)))


def _p95(ascending: Sequence[float]) -> float:
    return ascending[int(0.95 * (len(ascending) - 1))]


def delay_measured(asked_s: float, without_s: float, times_s: Sequence[float]) -> DelayMeasured:
    """From the median time without a delay and the ascending times with it; it also asks how late this host is now."""
    added_s = statistics.median(times_s) - without_s
    return DelayMeasured(asked_s, added_s, _p95(times_s) - without_s, host_late_s())


def nearest(measure: Callable[[], DelayMeasured]) -> DelayMeasured:
    """The first of several measurements that is within its tolerance, else the one that is nearest to what is asked."""
    found = measure()
    for _ in range(ATTEMPTS - 1):
        if found.ok:
            break
        found = min(found, measure(), key=lambda each: each.off_s)
    return found


def measure_idle(path: Path) -> DelayMeasured:
    """What a link adds that is asked for no delay: single datagrams, sent over it while nothing else uses it."""
    path.shaper.install(path.interface, RATE_BPS)
    return delay_measured(0.0, 0.0, _delays(path, DELAY_COUNT))


def measure_delay(path: Path, asked_s: float) -> DelayMeasured:
    """Send single datagrams over an idle link, with the delay and without; the nearest of several attempts."""
    return nearest(lambda: _measure_delay(path, asked_s))


def _measure_delay(path: Path, asked_s: float) -> DelayMeasured:
    without, delayed = (_delays_with(path, delay_s) for delay_s in (0.0, asked_s))
    return delay_measured(asked_s, statistics.median(without), delayed)


def _delays_with(path: Path, delay_s: float) -> list[float]:
    path.shaper.install(path.interface, RATE_BPS, netem=Netem(delay_s))
    return _delays(path, DELAY_COUNT)


def measure_jitter(path: Path, asked_s: float, count: int = JITTER_COUNT) -> JitterMeasured:
    """Send single datagrams over a link whose delay varies; the jitter that would spread them so if it were uniform."""
    path.shaper.install(path.interface, RATE_BPS, netem=Netem(JITTER_DELAY_S, asked_s))
    took = _delays(path, count)
    spread_s = took[int(_HIGH * (count - 1))] - took[int(_LOW * (count - 1))]
    return JitterMeasured(asked_s, spread_s / (2 * (_HIGH - _LOW)))


def _delays(path: Path, count: int) -> list[float]:
    """Seconds that so many datagrams take, one after another, in ascending order."""
    with _datagrams(path) as (sender, receiver):
        return sorted(_one_way(sender, receiver) for _ in range(count))


def _one_way(sender: socket.socket, receiver: socket.socket) -> float:
    """Seconds from the sending of a datagram until the receiver's kernel has it."""
    time.sleep(_SPACING_S)
    sender.send(_DATAGRAM.pack(time.time()))
    data, ancillary, _, _ = receiver.recvmsg(64, 64)
    ((_, _, stamp),) = ancillary
    seconds, nanoseconds = _STAMP.unpack(stamp)
    return float(seconds + nanoseconds * 1e-9 - _DATAGRAM.unpack(data)[0])


def measure_loss(path: Path, asked: float, count: int = LOSS_COUNT) -> LossMeasured:
    """Send `count` datagrams, in batches far smaller than any queue, and count those that arrive."""
    path.shaper.install(path.interface, RATE_BPS, netem=Netem(0.0, 0.0, asked))
    arrived = 0
    with _datagrams(path) as (sender, receiver):
        receiver.settimeout(0.2)
        for start in range(0, count, _LOSS_BATCH):
            batch = min(_LOSS_BATCH, count - start)
            for _ in range(batch):
                sender.send(_DATAGRAM.pack(time.time()))
            arrived += _arrived(receiver, batch)
    return LossMeasured(asked, count, count - arrived)


def _arrived(receiver: socket.socket, most: int) -> int:
    """How many datagrams come before the line falls silent; at most `most`."""
    for number in range(most):
        try:
            receiver.recv(64)
        except TimeoutError:
            return number
    return most


@contextmanager
def _datagrams(path: Path) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A sender connected to a receiver whose kernel stamps arrivals; neighbour discovery is done."""
    receiver = in_netns(path.receiver, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sender = in_netns(path.sender, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with receiver, sender:
        receiver.bind((path.address, 0))
        receiver.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        receiver.settimeout(_PATIENCE_S)
        sender.connect(receiver.getsockname())
        _meet(sender, receiver)
        yield sender, receiver


def _meet(sender: socket.socket, receiver: socket.socket) -> None:
    """Send until one datagram arrives, which neighbour discovery and losses may delay, and wait until no more come."""
    receiver.settimeout(0.3)
    for _ in range(20):
        sender.send(_DATAGRAM.pack(0.0))
        if _arrived(receiver, 1):
            break
    while _arrived(receiver, 1):
        continue
    receiver.settimeout(_PATIENCE_S)
