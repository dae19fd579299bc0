"""Mahimahi packet-delivery traces: one chance to send a packet per line.

Each line is an integer in milliseconds, not before the line above; each gives the chance to deliver 1500
bytes (mahimahi's packetshell counts 1504, with its tunnel header), and a repeated value gives several in
that millisecond. The trace loops with a period equal to its last line. Source: mm-link(1).
"""

from __future__ import annotations

from pathlib import Path

from testbed.errors import ConfigError
from traces.lines import line_error, numbered_lines
from traces.model import Change, Trace
from traces.quantities import recorded_quantities

PACKET_BITS = 1500 * 8
LONGEST_STAMP = 15  # digits; every whole number up to there is also exact as a float


def load(path: str | Path, *, target: str, direction: str, bin_s: float = 1.0) -> Trace:
    """A looping link trace: the mean rate (bit/s) of each window of `bin_s` seconds.

    Windows are [k * bin_s, (k + 1) * bin_s) and the last one also holds the lines at its end, so the mean
    rate over a lap is exactly that of the file. A remainder shorter than half a window joins the window
    before it. A window without a line is an outage. Raises ConfigError naming file and line.
    """
    path = Path(path)
    quantities = recorded_quantities(target, direction)
    if isinstance(bin_s, bool) or not isinstance(bin_s, int | float) or not 1e-3 <= bin_s < float("inf"):
        raise ConfigError(f"{bin_s!r} is not a window for {path}: bin_s must be a number of seconds, at least 0.001")
    stamps = _opportunities(path)
    changes = [
        Change(start, target, quantity, rate) for start, rate in _rates(stamps, bin_s) for quantity in quantities
    ]
    return Trace(tuple(changes), end="loop", period=stamps[-1] / 1000, name=path.stem)


def _opportunities(path: Path) -> list[int]:
    stamps: list[int] = []
    for number, line in numbered_lines(path):
        text = line.strip()
        if not (text.isascii() and text.isdigit()) or len(text) > LONGEST_STAMP:
            raise line_error(path, number, f"{text!r:.40} is not a time: it must be whole milliseconds, like '120'")
        stamp = int(text)
        if stamps and stamp < stamps[-1]:
            raise line_error(path, number, f"the time steps backwards from {stamps[-1]} to {stamp} ms")
        stamps.append(stamp)
    if stamps[-1] == 0:
        raise line_error(path, len(stamps), "the last time is 0 ms: it is the period and must be above 0")
    return stamps


def _rates(stamps: list[int], bin_s: float) -> list[tuple[float, float]]:
    """(start in seconds, bit/s) of each window."""
    period_s = stamps[-1] / 1000
    whole = int(period_s / bin_s + 1e-9)
    windows = max(1, whole + (period_s - whole * bin_s >= bin_s / 2))
    edges = [k * bin_s for k in range(windows)] + [period_s]
    counts = [0] * windows
    window = 0
    for stamp in stamps:
        while window + 1 < windows and stamp >= edges[window + 1] * 1000 - 1e-6:
            window += 1
        counts[window] += 1
    return [(edges[k], counts[k] * PACKET_BITS / (edges[k + 1] - edges[k])) for k in range(windows)]
