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
from typing import Any, NamedTuple

from testbed.clock import EmulatedClock
from testbed.controller.fleet import TargetState
from testbed.experiment.schema import Experiment
from testbed.placement.latency import message_bits
from testbed.topologies.links import Hop
from testbed.topologies.shapes import WIFI
from testbed.transport.messages import Span
from testbed.units import format_duration
from testbed.wire import OUTAGE_BPS

HELD_MOST_S = 2e-3  # a message that links hold for longer says little about their delay
LOW = 0.1  # the share of messages that the host has not delayed
HIGH = 0.9  # the share of messages up to which a spread is taken
LATE_S = 0.02  # a message that is so late was lost and sent again
JUDGED_JITTER_S = 1e-3  # less is lost in the host's own
JITTER_SHARE = 0.5  # of an asked jitter that messages must show: netem shows less than it is asked for
JUDGED_LOSSES = 10  # a loss is judged where it should have hit so many messages
LOSS_SHARE = 0.25  # of an asked loss; some of what is lost holds no message up
LEAST_MESSAGES = 20  # of a path; fewer are not judged

_Path = tuple[tuple[Hop, ...], float]  # its directions of links, and the delay that was asked of it


class _Asked(NamedTuple):
    """What is asked of one direction of a link."""

    delay_s: float
    jitter_s: float
    loss: float


class DelayRecord:
    """Collects how far the messages of a run were from the delays that were asked for."""

    def __init__(self, experiment: Experiment, clock: EmulatedClock, burst_bits: Callable[[float], float]) -> None:
        self._topology, self._clock, self._burst_bits = experiment.topology, clock, burst_bits
        self._off: dict[_Path, array[float]] = defaultdict(lambda: array("d"))
        self._asked: dict[Hop, _Asked] = {}

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
            if number in alone and held_s <= HELD_MOST_S:
                asked_s = target.delay_s(route)
                took_s = self._clock.duration(span.end_s - span.start_s)
                self._off[route, asked_s].append(took_s - held_s - asked_s)
        for name, link in target.links.items():
            self._asked[name, "up"] = _Asked(link.up_delay_s, link.up_jitter_s, link.up_loss)
            self._asked[name, "down"] = _Asked(link.down_delay_s, link.down_jitter_s, link.down_loss)

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
            shaken = {hop for hop in path[0] if self._asked[hop].jitter_s}
            for hop in shaken or path[0]:  # beside a link with jitter, another one shows nothing
                paths[hop].add(path)
        shown = {hop: self._least_wrong(hop, [off[path] for path in own]) for hop, own in paths.items()}
        return [self._row(hop, [off[path] for path in own], shown[hop], self._explained_s(hop, paths, shown))
                for hop, own in sorted(paths.items())]  # fmt: skip

    def _explained_s(self, hop: Hop, paths: Mapping[Hop, set[_Path]], shown: Mapping[Hop, Sequence[float]]) -> float:
        """What another link adds that all paths of this one cross: one that is as far off, and has more paths."""
        wrong_s = self._wrong_s(hop, shown[hop])
        others = [self._wrong_s(other, shown[other]) for other, more in paths.items() if paths[hop] < more]
        explained_s = max(others, key=abs, default=0.0)
        return explained_s if explained_s * wrong_s > 0 and abs(explained_s) >= abs(wrong_s) / 2 else 0.0

    def _row(
        self, hop: Hop, own: Sequence[Sequence[float]], shown: Sequence[float], explained_s: float
    ) -> dict[str, Any]:
        asked = self._asked[hop]
        base_s = asked.delay_s - explained_s
        spread_s = max(_at(off, HIGH) - _at(off, LOW) for off in own)
        return {
            "device": hop[0], "direction": hop[1], "asked_s": asked.delay_s, "p10_s": base_s + _at(shown, LOW),
            "p50_s": base_s + _at(shown, 0.5), "p90_s": base_s + _at(shown, HIGH), "messages": len(shown),
            "asked_jitter_s": asked.jitter_s, "jitter_s": spread_s / (2 * (HIGH - LOW)), "asked_loss": asked.loss,
            "late_share": max(sum(each > LATE_S for each in off) / len(off) for off in own),
        }  # fmt: skip

    def _least_wrong(self, hop: Hop, own: Sequence[Sequence[float]]) -> Sequence[float]:
        return min(own, key=lambda off: abs(self._wrong_s(hop, off)))

    def _wrong_s(self, hop: Hop, off: Sequence[float]) -> float:
        """How far a path is off: by the messages that the host has not delayed, or by the middle of a jitter."""
        return _at(off, 0.5 if self._asked[hop].jitter_s else LOW)


def wrong_links(rows: Sequence[Mapping[str, Any]], least_s: float, share: float) -> list[str]:
    """The directions of links whose own delay, jitter or loss is not what was asked, one sentence each.

    A delay may be off by `least_s`, or by this share of what was asked, or by a part of the jitter.
    """
    found = []
    for row in rows:
        link, jitter_s, loss = f"link {row['device']} {row['direction']}", row["asked_jitter_s"], row["asked_loss"]
        seen_s = row["p50_s"] if jitter_s else row["p10_s"]
        if abs(seen_s - row["asked_s"]) > max(least_s, share * row["asked_s"], JITTER_SHARE * jitter_s):
            found.append(
                f"{link}: messages met a delay of {format_duration(max(0.0, seen_s))} where "
                f"{format_duration(row['asked_s'])} is asked"
            )
        if jitter_s >= JUDGED_JITTER_S and row["jitter_s"] < JITTER_SHARE * jitter_s:
            found.append(
                f"{link}: delays vary by {format_duration(row['jitter_s'])} where a jitter of "
                f"{format_duration(jitter_s)} is asked"
            )
        if loss * row["messages"] >= JUDGED_LOSSES and row["late_share"] < LOSS_SHARE * loss:
            found.append(
                f"{link}: {100 * row['late_share']:.2g} % of its messages came as late as after a loss where a loss "
                f"of {100 * loss:.2g} % is asked"
            )
    return found


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
