"""What the messages and queues of a run tell of each link's delay, jitter and loss; for the verdict alone.

Emulated devices share their host's clock, so a message's stamps tell how long it was on its way. From that are taken
off what its bits need at the rates that were asked, and it counts only where it met nothing: no message before it on
any of its links, and no change of what is asked. What is left is the delay of all links on its path, which
`link_errors` divides among them. Losses are those that the links' queues count. No policy sees any of this.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from testbed.clock import EmulatedClock
from testbed.controller.fleet import LinkSample, TargetState
from testbed.controller.link_errors import Asked, Counted, Path, link_rows
from testbed.experiment.schema import Experiment
from testbed.placement.latency import message_bits
from testbed.topologies.links import UP, Hop
from testbed.transport.messages import Span
from testbed.wire import FRAME_BYTES, OUTAGE_BPS

HELD_MOST_S = 10e-3  # a message that links hold for longer says little about their delay
UNSETTLED_S = 0.05  # wall seconds before and after a change; when it came into force is not known better


class DelayRecord:
    """Collects how far the messages of a run were from the delays that were asked for, and what queues have lost.

    Times are wall seconds, as the spans have them.
    """

    def __init__(self, experiment: Experiment, clock: EmulatedClock, burst_bits: Callable[[float], float]) -> None:
        self._topology, self._clock, self._burst_bits = experiment.topology, clock, burst_bits
        self._since: list[float] = []  # when what is asked changed,
        self._targets: list[TargetState] = []  # and what it has been since
        self._off: dict[Path, array[float]] = defaultdict(lambda: array("d"))
        self._lost: dict[Asked, Counted] = defaultdict(Counted)
        self._seen: dict[Hop, tuple[Asked, LinkSample]] = {}  # when its queue was looked at last
        self._present: list[Span] = []  # of the present interval,
        self._ended: list[list[Span]] = []  # and of those that have ended and have not been looked at

    def asked(self, target: TargetState, wall_s: float) -> None:
        """Links are asked to be as the target says from now on."""
        if not self._targets or target.links != self._targets[-1].links:
            self._since.append(wall_s)
            self._targets.append(target)

    def replayed(self, change: LinkSample, wall_s: float) -> None:
        """A link has had another rate since then."""
        target = self._targets[-1]
        rate = {f"{change.direction}_bps": change.requested_bps}
        link = replace(target.links[change.device], **rate)
        self.asked(replace(target, links={**target.links, change.device: link}), wall_s)

    def count(self, samples: Sequence[LinkSample]) -> None:
        """Take in what the links' queues have counted, where they are asked to lose frames."""
        for sample in samples:
            hop = sample.device, sample.direction
            asked = self._asked_of(self._targets[-1], hop)
            before = self._seen.get(hop)
            if asked.loss and sample.sent_frames is not None:
                if before is not None and before[0] == asked:
                    rate_bps = self._rate_bps(self._targets[-1], hop)
                    self._lost[asked] += counted(before[1], sample, self._burst_bits(rate_bps))
                self._seen[hop] = asked, sample

    def hear(self, spans: Sequence[Span]) -> None:
        """Keep the messages of the present interval."""
        self._present += (span for span in spans if span.kind == "transfer")

    def end_interval(self, disturbed: bool = False) -> None:
        """What comes from now on cannot have waited for what came before.

        Messages of a disturbed interval, in which links also carried what no span tells, do not count.
        """
        if not disturbed:
            self._ended.append(self._present)
        self._present = []

    def look(self) -> None:
        """Look at the messages that have been kept; at a boundary that would take tokens' time."""
        ended, self._ended = self._ended, []
        for messages in ended:
            for message, target in self._alone(messages):
                route = self._topology.route(message.device, message.peer)
                held_s = self._held_s(message, route, target)
                path = tuple(self._asked_of(target, hop) for hop in route)
                shaken = [(hop, asked.jitter_s) for hop, asked in zip(route, path, strict=True) if asked.jitter_s]
                pieces = max((self._pieces(message, hop, target) for hop, _ in shaken), default=1)
                if held_s <= HELD_MOST_S and (pieces == 1 or len(shaken) == 1):
                    off_s = self._clock.duration(message.end_s - message.start_s) - held_s - target.delay_s(route)
                    self._off[path].append(off_s if pieces == 1 else of_one_piece(off_s, pieces, shaken[0][1]))

    def rows(self, least_s: float) -> list[dict[str, Any]]:
        """A row for each direction of a link and each delay, jitter and loss that was asked of it, for the run's log.

        A host may deliver a message late by `least_s`.
        """
        self.look()
        return link_rows(self._off, self._lost, least_s)

    def _alone(self, messages: Sequence[Span]) -> list[tuple[Span, TargetState]]:
        """The messages before which each of their links had let all earlier ones through, and had filled its bucket.

        A message comes to a link no earlier than the delays before it allow, and has left it when those after it begin.
        """
        passing: dict[Hop, list[tuple[float, float, int]]] = defaultdict(list)
        found: list[tuple[Span, TargetState] | None] = []
        for number, message in enumerate(messages):
            at = max(0, bisect_right(self._since, message.start_s) - 1)
            target, route = self._targets[at], self._topology.route(message.device, message.peer)
            found.append((message, target) if self._settled(at, message) else None)
            comes_s = self._clock.duration(message.start_s)
            goes_s = self._clock.duration(message.end_s) - target.delay_s(route)
            for hop in dict.fromkeys(route):
                rate_bps, delay_s = self._rate_bps(target, hop), self._asked_of(target, hop).delay_s
                through_s = max(goes_s, comes_s + message_bits(message.bytes) / rate_bps)
                passing[hop].append((comes_s, through_s + self._burst_bits(rate_bps) / rate_bps, number))
                comes_s, goes_s = comes_s + delay_s, goes_s + delay_s
        for passed in passing.values():
            busy_s = -math.inf
            for comes_s, leaves_s, number in sorted(passed):
                if comes_s < busy_s:
                    found[number] = None
                busy_s = max(busy_s, leaves_s)
        return [each for each in found if each is not None]

    def _settled(self, at: int, message: Span) -> bool:
        """Whether what is asked, which began as number `at`, held all the time that a message was on its way."""
        ended = at + 1 == len(self._since) or message.end_s + UNSETTLED_S < self._since[at + 1]
        return ended and (at == 0 or message.start_s - UNSETTLED_S > self._since[at])

    def _held_s(self, message: Span, route: Sequence[Hop], target: TargetState) -> float:
        """How long the slowest link holds a message that is alone, because of its bits."""
        bits, longest_s = message_bits(message.bytes), 0.0
        for hop in set(route):
            rate_bps, turns = self._rate_bps(target, hop), route.count(hop)
            held_s = max(0.0, turns * bits - self._burst_bits(rate_bps)) / rate_bps
            if turns > 1:  # what has passed a medium once is delayed while the rest passes
                held_s -= min(self._asked_of(target, hop).delay_s, held_s / turns)
            longest_s = max(longest_s, held_s)
        return longest_s

    def _pieces(self, message: Span, hop: Hop, target: TargetState) -> int:
        """The pieces in which a message passes a link: one if the bucket holds it, else frames."""
        bits = message_bits(message.bytes)
        at_once = bits <= self._burst_bits(self._rate_bps(target, hop))
        return 1 if at_once else math.ceil(bits / 8 / FRAME_BYTES)

    @staticmethod
    def _asked_of(target: TargetState, hop: Hop) -> Asked:
        link = target.links[hop[0]]
        if hop[1] == UP:
            return Asked(*hop, link.up_delay_s, link.up_jitter_s, link.up_loss)
        return Asked(*hop, link.down_delay_s, link.down_jitter_s, link.down_loss)

    @staticmethod
    def _rate_bps(target: TargetState, hop: Hop) -> float:
        link = target.links[hop[0]]
        return max(OUTAGE_BPS, link.up_bps if hop[1] == UP else link.down_bps)


def of_one_piece(off_s: float, pieces: int, jitter_s: float) -> float:
    """How late one piece would have been instead of the last of several, each delayed evenly over ± `jitter_s`.

    The largest of n even draws stays below a share s with the probability sⁿ.
    """
    share = (off_s + jitter_s) / (2 * jitter_s)
    return jitter_s * (2 * share**pieces - 1) if 0 < share < 1 else off_s


def counted(before: LinkSample, now: LinkSample, burst_bits: float) -> Counted:
    """What a queue has counted between two looks at it.

    netem decides once on what it gets in one piece, which is at most what the bucket holds. So it has decided at least
    once for each such piece of full frames, and once for each smaller frame.
    """
    frames, lost = (now.sent_frames or 0) - (before.sent_frames or 0), (now.dropped or 0) - (before.dropped or 0)
    full = ((now.sent_bytes or 0) - (before.sent_bytes or 0)) / FRAME_BYTES
    in_piece = max(1.0, burst_bits / 8 / FRAME_BYTES)
    return Counted(frames + lost, frames + lost - full * (1 - 1 / in_piece), lost)
