"""What a device with an engine can do beyond one streaming rate and one compute rate.

A device's plain rates, `streaming` and `compute`, change with traces. The values here do not: they say how a format, a
KV cache or a thread differs from the plain rates. They are applied by counting. Bytes that stream at half the plain
rate count twice, and the plain rates then turn counted bytes and counted FLOPs into seconds. So a trace that halves
`streaming` halves the rate of every format. Each value has a default that changes nothing. This module is a leaf.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

PACED_FROM_S = 1e-3  # shorter operations are not judged: our own few hundred microseconds weigh too much in them

Rates = tuple[tuple[str, float], ...]  # (format, rate), sorted by format


@dataclass(frozen=True)
class DeviceModel:
    """The finer numbers of a device; `docs/cost-model.md` has the units and defaults. Rates hold at the plain rates."""

    plain_Bps: float = 1.0  # the device's streaming rate and compute rate before any trace
    plain_flops: float = 1.0
    streaming_Bps: Rates = ()  # of weights in these formats; of others it is the plain rate
    kv_streaming_Bps: float | None = None  # of KV caches; None: the plain rate
    kv_rereads: float = 1.0  # how often an operation reads its KV cache from memory
    compute_flops: Rates = ()  # of products with numbers in these formats; of others it is the plain rate
    threads: int = 1  # that share an operation
    serial_share: float = 0.0  # of an operation's work, which one thread does while the others wait
    barrier_s: float = 0.0  # added to each operation, at whose end the threads wait for one another
    send_s: float = 0.0  # the software's time for one message
    receive_s: float = 0.0
    send_s_per_byte: float = 0.0
    receive_s_per_byte: float = 0.0
    idle_watts: float | None = None  # None: not known
    busy_watts: float | None = None

    def counted_bytes(self, weights: Iterable[tuple[str, float]], kv_bytes: float) -> float:
        """Bytes that the plain streaming rate reads in the time of these weights, by format, and of this KV cache."""
        rates = dict(self.streaming_Bps)
        counted = 0.0
        for name, size in weights:
            counted += size * (self.plain_Bps / rates[name]) if name in rates else size
        state = kv_bytes * self.kv_rereads
        counted += state if self.kv_streaming_Bps is None else state * (self.plain_Bps / self.kv_streaming_Bps)
        return counted * self._serial_factor

    def counted_flops(self, flops: Iterable[tuple[str, float]]) -> float:
        """FLOPs that the plain compute rate does in the time of these FLOPs, by format."""
        rates = dict(self.compute_flops)
        counted = 0.0
        for name, count in flops:
            counted += count * (self.plain_flops / rates[name]) if name in rates else count
        return counted * self._serial_factor

    @property
    def _serial_factor(self) -> float:
        """How much longer an operation takes because one thread does a share of it alone."""
        return 1.0 + self.serial_share * (self.threads - 1)

    def joules(self, busy_s: float, total_s: float) -> float | None:
        """Joules of a device that is busy for a part of some time and idle for the rest; None without its power.

        A device that waits for messages is idle, and so is one that has nothing to do.
        """
        if self.idle_watts is None or self.busy_watts is None:
            return None
        return self.busy_watts * busy_s + self.idle_watts * max(0.0, total_s - busy_s)

    @property
    def send_bps(self) -> float:
        """The most bits per second that the software sends."""
        return 8.0 / self.send_s_per_byte if self.send_s_per_byte else math.inf

    @property
    def receive_bps(self) -> float:
        """The most bits per second that the software receives."""
        return 8.0 / self.receive_s_per_byte if self.receive_s_per_byte else math.inf


PLAIN = DeviceModel()
"""One streaming rate, one compute rate, and nothing else."""
