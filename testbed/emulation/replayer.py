"""Replays link rates on the time clock in a process of its own, so that each change comes at its time.

The process knows the whole schedule and has sockets of its own in every network namespace; the controller tells it
only the state of the clock. It applies, reads back, and reports in batches. The controller handles everything else:
what else traces change (delays, compute, memory, pauses) and what a change means for a run.
"""

from __future__ import annotations

import contextlib
import gc
import heapq
import math
import os
import select
import signal
import socket
import struct
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from typing import Any

from testbed.clock import ClockState, EmulatedClock
from testbed.emulation.shaping import Shaper, ShapingFailed
from testbed.emulation.spawn import end_processes, exit_code, start_process
from testbed.emulation.stall_detector import StallDetector
from testbed.errors import RunFailed, TestbedError
from testbed.experiment.schema import Experiment
from testbed.topologies.links import DOWN, UP, Hop
from testbed.traces.series import Series
from testbed.worker.parent_death import end_with_parent

REPORT_INTERVAL_S = 0.1  # between batches, while there is something to report
MOST_IN_A_BATCH = 1000  # reports; well below what a local socket takes at once
# Between two rounds of changes. On a two-core virtual machine a change after a sleep costs 35-60 µs of CPU time, and
# one right after another 12 µs. A change that closely follows another is late by up to this much.
LEAST_PAUSE_S = 2e-3
PASSED_S = 0.05  # emulated; a change that is due for longer when the clock starts was made before the run was resumed
FIFO_PRIORITY = 1  # the lowest real-time priority
NICE = -10  # where real-time scheduling is not permitted
START_PATIENCE_S = 60.0  # the forkserver may be loading the worker
END_PATIENCE_S = 5.0

# A message is one packet: a letter, then a fixed struct, a text or several structs. No pickle.
_CLOCK, _END = b"C", b"E"  # to the process
_READY, _REPORTS, _USED, _FAILED = b"A", b"R", b"U", b"F"  # from it
_CLOCK_STATE = struct.Struct("=ddd")  # ClockState; NaN: not paused
_REPORT = struct.Struct("=Iddddd")  # index of the link, then the fields of Replayed after `hop`
_SECONDS = struct.Struct("=d")  # of CPU time since the clock started
_PACKET_BYTES = 1 << 17


def rate_series(experiment: Experiment) -> dict[Hop, Series]:
    """The series of links' rates that traces on the time clock hold."""
    if experiment.trace_clock != "time":
        return {}
    return {
        (target.removeprefix("link/"), quantity): series
        for trace in experiment.traces.traces
        for (target, quantity), series in trace.series.items()
        if quantity in (UP, DOWN)
    }


@dataclass(frozen=True)
class ReplayedLink:
    """One direction of a link whose queue is installed already; rates are emulated bit/s."""

    hop: Hop
    netns_pid: int | None  # a process in the queue's network namespace; None: this one
    interface: str
    series: Series
    otherwise_bps: float  # where the series has no value

    @property
    def most_bps(self) -> float:
        """The highest rate that it ever has."""
        return max([self.otherwise_bps, *(value for _, value in self.series.steps if value is not None)])

    def rates(self, after: float, until: float) -> Iterator[float]:
        """All rates that it should have at some time in after ≤ time ≤ until."""
        value = self.series.value_at(after)
        yield self.otherwise_bps if value is None else value
        for _, value in self.series.changes(after, until):
            yield self.otherwise_bps if value is None else value


@dataclass(frozen=True)
class Replayed:
    """One change that was made; times are monotonic wall times, rates emulated."""

    hop: Hop
    due_s: float
    applied_s: float  # when the kernel had acknowledged it
    requested_bps: float
    applied_bps: float
    readback_bps: float

    @property
    def late_s(self) -> float:
        """Wall seconds from the time when the change was due until it was in force."""
        return self.applied_s - self.due_s


class Replayer:
    """The controller's end. It follows `clock` from the start; nothing is replayed before the clock has started.

    Raises ShapingFailed for what the kernel refuses, RunFailed when the process is gone.
    """

    def __init__(self, context: ForkServerContext, links: Sequence[ReplayedLink], clock: EmulatedClock) -> None:
        self._hops = [link.hop for link in links]
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        arguments = (theirs, tuple(links), clock.dilation)
        self.process = context.Process(target=run_replayer, args=arguments, name="replayer")
        start_process(self.process)
        theirs.close()
        self._late_s = array("d")
        self._cpu_s: float | None = None
        self._begun_s = math.nan
        self._ended_s = math.nan
        self.priority = self._started()
        clock.follow(self._tell)

    @property
    def going_on(self) -> bool:
        """Whether it has not been asked to end."""
        return not math.isfinite(self._ended_s)

    def reports(self) -> list[Replayed]:
        """The changes made since the last call, in order; does not wait."""
        self._channel.setblocking(False)
        found: list[Replayed] = []
        with contextlib.suppress(BlockingIOError):
            while not math.isfinite(self._ended_s):
                found += self._take(self._receive())
        return found

    def end(self) -> list[Replayed]:
        """Have the process change nothing more and end; returns the last reports."""
        found: list[Replayed] = []
        if not math.isfinite(self._ended_s):
            with contextlib.suppress(OSError):  # it has failed; its last message says why
                self._channel.settimeout(END_PATIENCE_S)
                self._channel.send(_END)
            try:
                while self._cpu_s is None:
                    found += self._take(self._await(END_PATIENCE_S))
            except TimeoutError as error:
                raise RunFailed(f"the replayer (pid {self.process.pid}) does not end: it is stuck") from error
            self._ended_s = time.monotonic()
        self.stop()
        return found

    def stop(self) -> None:
        """End the process at once; safe to call twice."""
        self._channel.close()
        end_processes([self.process])

    def facts(self) -> dict[str, Any]:
        """How the replay has gone so far; seconds are of wall time."""
        late = sorted(self._late_s)
        facts: dict[str, Any] = {"process": "its own", "priority": self.priority, "changes": len(late)}
        if late:
            facts |= {"late_median_s": _share(late, 0.5), "late_p99_s": _share(late, 0.99), "late_max_s": late[-1]}
        if self._cpu_s is not None and self._ended_s > self._begun_s:
            facts["core_share"] = self._cpu_s / (self._ended_s - self._begun_s)
        return facts

    def _started(self) -> str:
        try:
            packet = self._await(START_PATIENCE_S)
            if packet[:1] != _READY:
                self._take(packet)
        except TimeoutError as error:
            self.stop()
            raise RunFailed(f"the replayer did not start within {START_PATIENCE_S:.0f} s") from error
        except TestbedError:
            self.stop()
            raise
        return packet[1:].decode()

    def _await(self, patience_s: float) -> bytes:
        """The next packet; raises TimeoutError, or RunFailed for a process that has stopped making progress."""
        deadline, stalls = time.monotonic() + patience_s, StallDetector()
        assert self.process.pid is not None
        while True:
            self._channel.settimeout(0.5)
            try:
                return self._receive()
            except TimeoutError:
                if time.monotonic() >= deadline:
                    raise
                stalls.check({f"the replayer (pid {self.process.pid})": self.process.pid})

    def _receive(self) -> bytes:
        """The next packet; empty when the process is gone, even if it left a packet of ours unread."""
        try:
            return self._channel.recv(_PACKET_BYTES)
        except ConnectionResetError:
            return b""

    def _tell(self, state: ClockState) -> None:
        if math.isnan(self._begun_s):
            self._begun_s = time.monotonic()
        paused_at = math.nan if state.paused_at_s is None else state.paused_at_s
        with contextlib.suppress(OSError):  # the process has ended; its reports say so
            self._channel.settimeout(END_PATIENCE_S)  # a stopped process takes only a few
            self._channel.send(_CLOCK + _CLOCK_STATE.pack(state.zero_s, state.paused_total_s, paused_at))

    def _take(self, packet: bytes) -> list[Replayed]:
        kind, body = packet[:1], packet[1:]
        if kind == _REPORTS:
            found = [Replayed(self._hops[index], *fields) for index, *fields in _REPORT.iter_unpack(body)]
            self._late_s.extend(change.late_s for change in found)
            return found
        if kind == _USED:
            (self._cpu_s,) = _SECONDS.unpack(body)
            return []
        if kind == _FAILED:
            raise ShapingFailed(body.decode())
        raise RunFailed(
            f"the replayer (pid {self.process.pid}), which changes the links' rates, ended with code "
            f"{exit_code(self.process)} in the middle of the run"
        )


def run_replayer(channel: socket.socket, links: Sequence[ReplayedLink], dilation: float) -> None:
    """The process: report that it is ready, then follow the clock until the channel says to end or is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the controller, which then ends this process
    end_with_parent()
    gc.freeze()  # a collection of everything that the forkserver has loaded takes tens of milliseconds
    gc.disable()
    with contextlib.suppress(ConnectionError):  # nobody listens any more
        try:
            _Replay(channel, links, dilation).follow()
        except TestbedError as error:
            channel.setblocking(True)
            channel.send(_FAILED + str(error).encode())


def schedule(links: Sequence[ReplayedLink]) -> Iterator[tuple[float, int, float]]:
    """Every change after time 0 as (trace time, index of the link, emulated bit/s), in order and found lazily.

    An outage at time 0 is a change, too, because links work while a run is made ready.
    """

    def of(index: int, link: ReplayedLink) -> Iterator[tuple[float, int, float]]:
        if link.series.value_at(0.0) == 0:
            yield 0.0, index, 0.0
        for due, value in link.series.changes(0.0, math.inf):
            yield due, index, link.otherwise_bps if value is None else value

    return heapq.merge(*(of(index, link) for index, link in enumerate(links)))


def raise_priority() -> str:
    """Run before ordinary processes, as far as this host permits; returns what was granted, as text."""
    try:
        policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(0, policy, os.sched_param(FIFO_PRIORITY))
    except OSError:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, NICE)
        except OSError as error:
            return f"normal (higher is not permitted: {error.strerror})"
        return f"nice {NICE} (real-time is not permitted)"
    return f"real-time (SCHED_FIFO {FIFO_PRIORITY})"


class _Replay:
    """The process's own state. Times are monotonic wall seconds, except in the schedule."""

    def __init__(self, channel: socket.socket, links: Sequence[ReplayedLink], dilation: float) -> None:
        self._channel = channel
        self._dilation = dilation
        self._clock: ClockState | None = None
        self._begun_cpu_s = 0.0
        self._reports = bytearray()
        self._report_s = math.inf  # when the next batch is due
        self._rested_s = 0.0  # when the next round of changes may begin
        shapers = {pid: Shaper(pid) for pid in dict.fromkeys(link.netns_pid for link in links)}
        self._queues = [(shapers[link.netns_pid], link.interface) for link in links]
        for shaper, interface in self._queues:
            shaper.adopt(interface)
        self._schedule = schedule(links)
        self._following = next(self._schedule, None)
        self._channel.send(_READY + raise_priority().encode())

    def follow(self) -> None:
        """Apply each change at its time, until told to end."""
        self._channel.setblocking(False)
        while True:
            now = time.monotonic()
            self._apply(now)
            if now >= self._report_s:
                self._send_reports(now)
            timeout = min(max(self._next_due_s(), self._rested_s), self._report_s) - time.monotonic()
            # select waits by the microsecond, poll by the millisecond; this process has few descriptors
            if select.select([self._channel], [], [], None if timeout == math.inf else max(0.0, timeout))[0]:
                packet = self._channel.recv(_PACKET_BYTES)
                if packet[:1] != _CLOCK:
                    break
                first = self._clock is None
                zero_s, paused_total_s, paused_at_s = _CLOCK_STATE.unpack(packet[1:])
                self._clock = ClockState(zero_s, paused_total_s, None if math.isnan(paused_at_s) else paused_at_s)
                if first:
                    self._begun_cpu_s = time.process_time()
                    self._pass_over((time.monotonic() - zero_s - paused_total_s) / self._dilation)
        self._channel.setblocking(True)
        while self._reports:
            self._send_reports(0.0)
        self._channel.send(_USED + _SECONDS.pack(time.process_time() - self._begun_cpu_s))

    def _pass_over(self, now_s: float) -> None:
        """Where a run goes on at a later time of its traces, apply only the last of the changes before it."""
        rates: dict[int, float] = {}
        while self._following is not None and self._following[0] < now_s - PASSED_S:
            _, index, rate_bps = self._following
            rates[index] = rate_bps
            self._following = next(self._schedule, None)
        for index, rate_bps in rates.items():
            shaper, interface = self._queues[index]
            shaper.change(interface, rate_bps / self._dilation)

    def _next_due_s(self) -> float:
        """When the next change is due as the clock is now; never while it is paused or when nothing follows."""
        if self._following is None or self._clock is None or self._clock.paused_at_s is not None:
            return math.inf
        return self._clock.zero_s + self._clock.paused_total_s + self._following[0] * self._dilation

    def _apply(self, now: float) -> None:
        dilation = self._dilation
        if self._next_due_s() > now or now < self._rested_s:
            return
        self._rested_s = now + LEAST_PAUSE_S
        while (due := self._next_due_s()) <= now:
            assert self._following is not None
            _, index, rate_bps = self._following
            shaper, interface = self._queues[index]
            applied = shaper.change(interface, rate_bps / dilation)
            rates = (rate_bps, applied.applied_bps * dilation, applied.readback_bps * dilation)
            self._reports += _REPORT.pack(index, due, applied.finished_s, *rates)
            self._report_s = min(self._report_s, now + REPORT_INTERVAL_S)
            self._following = next(self._schedule, None)

    def _send_reports(self, now: float) -> None:
        """Send a batch. One that the controller cannot take yet is kept."""
        batch = self._reports[: MOST_IN_A_BATCH * _REPORT.size]
        with contextlib.suppress(BlockingIOError):
            self._channel.send(_REPORTS + batch)
            del self._reports[: len(batch)]
        self._report_s = now + REPORT_INTERVAL_S if self._reports else math.inf


def _share(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
