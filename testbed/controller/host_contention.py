"""Whether other processes took the host's cores from a run, and which devices waited for a core meanwhile.

Paced devices sleep most of the time, and the kernel lets a process that wakes run first. So a run may look almost
right beside processes that want every core. The measure is therefore what the others used and what was left, and not
only how long devices waited.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from testbed.controller.worst_first import worst_first

Row = Mapping[str, Any]

# The quick start on two cores leaves 80 % idle. One other process that never sleeps leaves 35 % and does no harm; one
# such process per core leaves nothing and uses 85 %.
IDLE_LEAST = 0.10  # this share of the cores' time must be left,
OTHERS_MOST = 0.25  # or else others may use no more than this share; above it they are noted in any case
JUDGED_SPAN_S = 1.0  # shorter intervals are judged together with the next ones: CPU time is counted in steps of 10 ms
SHORTEST_SPAN_S = 0.3  # a run that is shorter than this is not judged
NAMED_FROM = 0.01  # a device that waited for a smaller share of the time is not named


@dataclass(frozen=True)
class Window:
    """One interval, or several in a row. Shares are of all cores' time."""

    first: int
    last: int
    span_s: float
    cores: int
    others: float
    idle: float

    @property
    def is_taken(self) -> bool:
        """Whether others left too little."""
        return self.idle < IDLE_LEAST and self.others > OTHERS_MOST


def contention(host: Iterable[Row], waits: Iterable[Row]) -> tuple[list[str], list[str]]:
    """(reasons, notes) from the rows of the table `host` and from the devices' waits by interval."""
    found = windows(host)
    lost = [window for window in found if window.is_taken]
    if lost:
        worst = max(lost, key=lambda window: (window.others, -window.first))
        took = f"other processes took {_percent(worst.others)} of this host's {_cores(worst)} in {_tokens(worst)}"
        often = f"left less than {_percent(IDLE_LEAST)} idle in {len(lost)} of {len(found)} intervals"
        return [f"{took} and {often}; {_waited(worst, waits)}: stop what else runs here, and run it again"], []
    most = max(found, key=lambda window: window.others, default=None)
    if most is None or most.others <= OTHERS_MOST:
        return [], []
    used = f"other processes used {_percent(most.others)} of this host's {_cores(most)} in {_tokens(most)}"
    return [], [f"{used}; enough was left"]


def windows(host: Iterable[Row]) -> list[Window]:
    """The intervals, short ones joined with the next; a short rest at the end joins the last window."""
    found: list[Window] = []
    open_: Window | None = None
    for row in host:
        new = Window(
            row["first_step"], row["last_step"], row["span_s"], row["cores"], row["others_share"], row["idle_share"]
        )
        open_ = new if open_ is None else _joined(open_, new)
        if open_.span_s >= JUDGED_SPAN_S:
            found.append(open_)
            open_ = None
    if open_ is not None and found:
        found[-1] = _joined(found[-1], open_)
    elif open_ is not None and open_.span_s >= SHORTEST_SPAN_S:
        found.append(open_)
    return found


def _joined(one: Window, other: Window) -> Window:
    span_s = one.span_s + other.span_s

    def mean(of_one: float, of_other: float) -> float:
        return (of_one * one.span_s + of_other * other.span_s) / span_s

    return Window(one.first, other.last, span_s, one.cores, mean(one.others, other.others), mean(one.idle, other.idle))


def _waited(window: Window, waits: Iterable[Row]) -> str:
    """Which devices waited noticeably for a core during these tokens, and for which share of the time."""
    wait_s: dict[str, float] = defaultdict(float)
    for row in waits:
        if window.first <= row["first"] and row["last"] <= window.last and row["wait_s"] > 0:
            wait_s[row["device"]] += row["wait_s"]
    if not wait_s:
        return "the kernel does not say which devices waited"
    shares = {device: seconds / window.span_s for device, seconds in wait_s.items()}
    # Equal figures are told in the order of the devices, so it is the figure as it is told that is compared.
    named = {device: (round(share, 2), _percent(share)) for device, share in shares.items() if share >= NAMED_FROM}
    if not named:
        return f"no device waited for a core for {_percent(NAMED_FROM)} of that time"
    return f"waited for a core meanwhile: {worst_first('device', named)}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _cores(window: Window) -> str:
    return f"{window.cores} cores" if window.cores > 1 else "core"


def _tokens(window: Window) -> str:
    return f"tokens {window.first}-{window.last}" if window.last > window.first else f"token {window.first}"
