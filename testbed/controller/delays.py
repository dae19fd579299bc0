"""What each link's own delay was in a run, beside the delay that was asked for; for the verdict alone.

Emulated devices share their host's clock, so a message's stamps tell how long it was on its way. From that are taken
off what its bits need at the rate that was asked, and it counts only where it met nothing: no message of its sender
just before it, and none at its receiver. What is left is the delay of all links on its path. A link is given what the
least conspicuous of its paths shows, so a wrong link does not make the links around it wrong. No policy sees this.
"""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from testbed.clock import EmulatedClock
from testbed.controller.fleet import TargetState
from testbed.experiment.schema import Experiment
from testbed.placement.latency import message_bits
from testbed.topologies.links import UP, Hop
from testbed.topologies.shapes import WIFI
from testbed.transport.messages import Span
from testbed.units import format_duration
from testbed.wire import OUTAGE_BPS

HELD_MOST_S = 2e-3  # a message that links hold for longer says little about their delay
LOW = 0.1  # the share of messages that the host has not delayed
LEAST_MESSAGES = 20  # of a path; fewer are not judged

_Path = tuple[tuple[Hop, ...], float]  # its directions of links, and the delay that was asked of it


class DelayRecord:
    """Collects how far the messages of a run were from the delays that were asked for."""

    def __init__(self, experiment: Experiment, clock: EmulatedClock, burst_bits: Callable[[float], float]) -> None:
        self._topology, self._clock, self._burst_bits = experiment.topology, clock, burst_bits
        self._off: dict[_Path, array[float]] = defaultdict(lambda: array("d"))
        self._asked: dict[Hop, float] = {}

    def hear(self, spans: Sequence[Span], target: TargetState) -> None:
        """Take in an interval's messages, while links were asked to be as the target says."""
        if self._topology.shape == WIFI:  # messages of all stations wait for one another
            return
        messages = [span for span in spans if span.kind == "transfer"]
        alone = self._alone(messages, target)
        for number, span in enumerate(messages):
            route = self._topology.route(span.device, span.peer)
            rate_bps = max(OUTAGE_BPS, target.rate_bps(route))
            held_s = max(0.0, message_bits(span.bytes) - self._burst_bits(rate_bps)) / rate_bps
            if number in alone and held_s <= HELD_MOST_S and not _jitter_s(route, target):
                asked_s = target.delay_s(route)
                took_s = self._clock.duration(span.end_s - span.start_s)
                self._off[route, asked_s].append(took_s - held_s - asked_s)
        for name, link in target.links.items():
            self._asked |= {(name, "up"): link.up_delay_s, (name, "down"): link.down_delay_s}

    def _alone(self, messages: Sequence[Span], target: TargetState) -> set[int]:
        """The messages before which their first and their last link had time to let all earlier ones through."""
        busy: dict[tuple[str, str], float] = {}
        alone = set(range(len(messages)))
        for side, when in (("device", "start_s"), ("peer", "end_s")):
            for number in sorted(range(len(messages)), key=lambda at: getattr(messages[at], when)):
                span = messages[number]
                rate_bps = max(OUTAGE_BPS, target.rate_bps(self._topology.route(span.device, span.peer)))
                bits = message_bits(span.bytes)
                at_s, need_s = self._clock.duration(getattr(span, when)), (bits + self._burst_bits(rate_bps)) / rate_bps
                end = side, getattr(span, side)
                before_s = need_s if side == "peer" else 0.0  # the time of its own bits has passed when it arrives
                if at_s - before_s < busy.get(end, -math.inf):
                    alone.discard(number)
                busy[end] = max(busy.get(end, -math.inf), at_s + (need_s if side == "device" else 0.0))
        return alone

    def rows(self) -> list[dict[str, Any]]:
        """A row for each direction of a link that carried enough messages, for the run's log."""
        off = {path: sorted(found) for path, found in self._off.items() if len(found) >= LEAST_MESSAGES}
        paths: dict[Hop, set[_Path]] = defaultdict(set)
        for path in off:
            for hop in path[0]:
                paths[hop].add(path)
        shown = {
            hop: min((off[path] for path in own), key=lambda each: abs(_at(each, LOW))) for hop, own in paths.items()
        }
        found = []
        for hop, own in sorted(paths.items()):
            asked_s = self._asked[hop]
            # A link whose every path crosses another one that is as far off has shown nothing of its own.
            others = [_at(shown[other], LOW) for other, more in paths.items() if own < more]
            explained = max(others, key=abs, default=0.0)
            if explained * _at(shown[hop], LOW) <= 0 or abs(explained) < abs(_at(shown[hop], LOW)) / 2:
                explained = 0.0
            quantiles = {f"p{round(100 * at)}_s": asked_s + _at(shown[hop], at) - explained for at in (LOW, 0.5, 0.9)}
            found.append(
                {"device": hop[0], "direction": hop[1], "asked_s": asked_s, **quantiles, "messages": len(shown[hop])}
            )  # fmt: skip
        return found


def _jitter_s(route: Sequence[Hop], target: TargetState) -> float:
    """The largest jitter that is asked of a link on the route."""
    links = [(target.links[name], way) for name, way in route]
    return max(link.up_jitter_s if way == UP else link.down_jitter_s for link, way in links)


def wrong_delays(rows: Sequence[Mapping[str, Any]], least_s: float, share: float) -> list[str]:
    """The directions of links whose delay is off by more than `least_s` and this share of what was asked."""
    return [
        f"link {row['device']} {row['direction']}: messages met a delay of {format_duration(max(0.0, row['p10_s']))} "
        f"where {format_duration(row['asked_s'])} is asked"
        for row in rows
        if abs(row["p10_s"] - row["asked_s"]) > max(least_s, share * row["asked_s"])
    ]


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
