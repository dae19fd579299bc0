"""What a shaped link really lets through: TCP goodput, the most in any short window, and the time after a step.

It measures at the receiver, from frames that the receiver's kernel stamps. It knows two network namespaces and a queue
between them. The caller builds them, and judges whether the result is good enough for a run.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from testbed.doctor.capture import Arrivals, Capture
from testbed.emulation.shaping import Shaper, in_netns, tbf_parameters
from testbed.errors import EnvironmentLacks
from testbed.wire import FRAME_BYTES, MTU_BYTES, TCP_SHARE

RATES_BPS = (0.5e6, 1e6, 5e6, 20e6, 50e6, 100e6, 500e6)
STEPS_BPS = ((20e3, 10e6), (0.0, 10e6), (5e6, 50e6), (50e6, 5e6), (20e6, 20e3))  # (before, after); 0 is an outage
GOODPUT_TOLERANCE = 0.03
WINDOW_S = 0.1
STAMP_LATE_S = 5e-4  # a busy host stamps a frame so late now and then, and the window after it seems fuller
STEP_FRAMES, STEP_S = 3, 0.05  # cumulative bytes after a step may be off by so many frames or seconds of the rate

ATTEMPTS = 5
RATE_ATTEMPTS = 12  # at 500 Mbit/s a frame takes 24 µs, so one late stamp is enough to miss the window

_LONG_BYTES = 200_000  # sent at least, so that the bucket's first frame weighs little
_LEAST_S = 1.0
_BEFORE_STEP_S = 0.4
_AFTER_STEP_S = 1.0
_SLOW_STEP_FRAMES = 3  # after a step to a slow rate, wait for so many frames
_DATAGRAM = bytes(FRAME_BYTES - 14 - 20 - 8)  # one full frame
_QUIET_QUEUES = 1.2  # after a step, send nothing for so many times as long as the queue takes to empty,
_QUIET_MOST_S = 0.06  # but never for longer than this
_SEND_BUFFER_BYTES = 48_000  # less than any queue holds, so that the sender blocks before the queue drops
_CHUNK = bytes(1 << 16)
_PATIENCE_S = 20.0
_POLL_S = 0.05


@dataclass(frozen=True)
class Path:
    """Two network namespaces by pid, the receiver's address, and a shaped link between them."""

    sender: int
    receiver: int
    address: str
    shaper: Shaper
    interface: str  # the shaped one
    far_pid: int | None  # a process in the namespace at the link's other end; None: this one
    far_interface: str  # the interface there, at which frames are stamped


@dataclass(frozen=True)
class RateMeasured:
    """One transfer over a link of a constant rate."""

    rate_bps: float
    goodput_bps: float
    window_bytes: int  # the most that arrived in any window of WINDOW_S
    window_allowed_bytes: float

    @property
    def share(self) -> float:
        """Goodput as a share of what headers leave of the rate."""
        return self.goodput_bps / (TCP_SHARE * self.rate_bps)

    @property
    def ok(self) -> bool:
        """Whether it is within the tolerances."""
        return abs(self.share - 1) <= GOODPUT_TOLERANCE and self.window_bytes <= self.window_allowed_bytes


@dataclass(frozen=True)
class StepMeasured:
    """A saturated link whose rate changes. Deviations are of cumulative bytes after the step from rate × time."""

    before_bps: float
    after_bps: float
    ahead_bytes: float
    behind_bytes: float
    allowed_bytes: float

    @property
    def furthest_bytes(self) -> float:
        """The larger deviation."""
        return max(self.ahead_bytes, self.behind_bytes)

    @property
    def ok(self) -> bool:
        """Whether it is within the tolerance."""
        return self.furthest_bytes <= self.allowed_bytes


def measure_rate(path: Path, rate_bps: float, attempts: int = RATE_ATTEMPTS) -> RateMeasured:
    """One TCP connection at full speed. It is repeated while it is off, and the best of each figure counts.

    Other work on the host lowers the goodput, and it delays stamps so that more seems to come at once. Neither makes a
    link look shaped that is not.
    """
    found = _measure_rate(path, rate_bps)
    for _ in range(attempts - 1):
        if found.ok:
            break
        again = _measure_rate(path, rate_bps)
        nearer = min(found, again, key=lambda each: abs(each.share - 1))
        found = replace(nearer, window_bytes=min(found.window_bytes, again.window_bytes))
    return found


def _measure_rate(path: Path, rate_bps: float) -> RateMeasured:
    path.shaper.install(path.interface, rate_bps)
    size = round(TCP_SHARE * max(rate_bps / 8 * _LEAST_S, _LONG_BYTES))
    capture = Capture(path.far_pid, path.far_interface)
    received = _stream(path, size)
    arrivals = capture.stop()
    (first_s, first), (last_s, last) = received[0], received[-1]
    _, _, burst = tbf_parameters(round(rate_bps))
    allowed = rate_bps / 8 * (WINDOW_S + STAMP_LATE_S) + burst + MTU_BYTES
    return RateMeasured(rate_bps, (last - first) * 8 / (last_s - first_s), most_within(arrivals, WINDOW_S), allowed)


def measure_step(path: Path, before_bps: float, after_bps: float, attempts: int = ATTEMPTS) -> StepMeasured:
    """Keep the queue full of full frames while the rate changes in place; the best of several attempts."""
    found = _measure_step(path, before_bps, after_bps)
    for _ in range(attempts - 1):
        if found.ok:
            break
        found = min(found, _measure_step(path, before_bps, after_bps), key=lambda each: each.furthest_bytes)
    return found


def _measure_step(path: Path, before_bps: float, after_bps: float) -> StepMeasured:
    path.shaper.install(path.interface, max(before_bps, 10e6))
    allowed = max(STEP_FRAMES * FRAME_BYTES, STEP_S * after_bps / 8)
    with _flood(path) as flowing:
        path.shaper.change(path.interface, before_bps)
        time.sleep(_BEFORE_STEP_S)
        capture = Capture(path.far_pid, path.far_interface)
        queued = path.shaper.stats(path.interface).backlog_bytes
        if queued > _SEND_BUFFER_BYTES:  # the sender is not blocked, so its next frame would wake the queue;
            flowing.clear()  # the queue must wake up by itself and send what it holds
        stepped_s = time.time()
        path.shaper.change(path.interface, after_bps)
        time.sleep(min(_QUIET_MOST_S, _QUIET_QUEUES * queued * 8 / after_bps))
        flowing.set()
        time.sleep(max(_AFTER_STEP_S, _SLOW_STEP_FRAMES * FRAME_BYTES * 8 / after_bps))
        ended_s, arrivals = time.time(), capture.stop()
    ahead, behind = deviation(arrivals, stepped_s, ended_s, after_bps)
    return StepMeasured(before_bps, after_bps, ahead, behind, allowed)


def most_within(arrivals: Arrivals, window_s: float) -> int:
    """The most bytes in any window of this length, wherever it begins."""
    most = total = first = 0
    for time_s, size in zip(arrivals.times_s, arrivals.wire_bytes, strict=True):
        total += size
        while time_s - arrivals.times_s[first] >= window_s:
            total -= arrivals.wire_bytes[first]
            first += 1
        most = max(most, total)
    return most


def deviation(arrivals: Arrivals, start_s: float, end_s: float, rate_bps: float) -> tuple[float, float]:
    """(ahead, behind): how far cumulative bytes ever were from rate × time since `start_s`, in bytes, both >= 0."""
    ahead = behind = total = 0.0
    for time_s, size in zip(arrivals.times_s, arrivals.wire_bytes, strict=True):
        if start_s <= time_s <= end_s:
            ideal = (time_s - start_s) * rate_bps / 8
            behind = max(behind, ideal - total)
            total += size
            ahead = max(ahead, total - ideal)
    return ahead, max(behind, (end_s - start_s) * rate_bps / 8 - total)


def _stream(path: Path, size: int) -> list[tuple[float, int]]:
    """Send `size` bytes by TCP; returns (time, bytes received so far) after every piece, by the receiver's clock."""
    listener = in_netns(path.receiver, lambda: socket.create_server((path.address, 0)))
    port = listener.getsockname()[1]
    sender = in_netns(path.sender, lambda: socket.create_connection((path.address, port), timeout=_PATIENCE_S))
    receiver, _ = listener.accept()
    receiver.settimeout(_PATIENCE_S)

    def send() -> None:
        with contextlib.suppress(OSError):  # the receiver has given up and says why
            for offset in range(0, size, len(_CHUNK)):
                sender.sendall(_CHUNK[: size - offset])

    thread = threading.Thread(target=send, name="bench-send", daemon=True)
    thread.start()
    samples: list[tuple[float, int]] = []
    total, buffer = 0, bytearray(1 << 18)
    try:
        while total < size and (got := receiver.recv_into(buffer)):
            total += got
            samples.append((time.monotonic(), total))
    except TimeoutError as error:
        raise EnvironmentLacks(
            f"{path.interface} let nothing through for {_PATIENCE_S:.0f} s after {total} of {size} bytes: the link is "
            "stuck, or this host is far too busy"
        ) from error
    finally:
        sender.shutdown(socket.SHUT_RDWR)
        thread.join(_PATIENCE_S)
        for each in (receiver, listener, sender):
            each.close()
    return samples


@contextmanager
def _flood(path: Path) -> Iterator[threading.Event]:
    """Keep the queue full of full frames during the block, which begins when the first frame has arrived.

    While the event that it gives is cleared, nothing is sent.
    """
    receiver = in_netns(path.receiver, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    receiver.bind((path.address, 0))
    receiver.settimeout(_PATIENCE_S)
    sender = in_netns(path.sender, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    sender.settimeout(_POLL_S)
    sender.connect(receiver.getsockname())
    done, flowing = threading.Event(), threading.Event()
    flowing.set()

    def send() -> None:
        while not done.is_set():
            if not flowing.wait(_POLL_S):
                continue
            with contextlib.suppress(TimeoutError):  # the queue is full, and the link may be in an outage
                sender.send(_DATAGRAM)

    thread = threading.Thread(target=send, name="bench-flood", daemon=True)
    try:
        thread.start()
        receiver.recv(2 * FRAME_BYTES)
        yield flowing
    finally:
        done.set()
        thread.join(_PATIENCE_S)
        sender.close()
        receiver.close()
