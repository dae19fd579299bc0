"""Loss and jitter as netem makes them and TCP mends them: every message of a token gets delays of its own, drawn.

What is modelled, for each message:

- Jitter. netem delays each packet by a time that is even over delay ± jitter (tc-netem(8)). A message is there when its
  last packet is, so it takes the longest of its packets' delays, as if all had come to the link at once.
- Loss. Each packet is lost with the link's share, by itself. A lost packet takes none of the link's rate, because netem
  lies below it. TCP sends it again (RFC 6298, RFC 8985): after 1.25 round trips where a later packet of the message
  came through; after two and a timer's least where none did; after a timeout where the message has one packet; and
  after a timeout that doubles each time where the repetition is lost as well.

What is not: acknowledgements that are lost or late, packets that netem reorders, the congestion window, several packets
that the kernel hands to netem as one, and messages that wait behind a lost one of the same sender. The blocks of a
migration travel as if there were neither loss nor jitter, and policies and predictions know of neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from random import Random

from testbed.experiment.schema import Experiment
from testbed.placement.blocks import wire_bytes
from testbed.placement.cost.model import CostModel
from testbed.placement.latency import Work, half_layer_latency, transfer_seconds
from testbed.placement.observation import Observation, Path
from testbed.topologies.links import UP, Hop, Link
from testbed.wire import FRAME_BYTES

TIMEOUT_S = 0.2  # TCP_RTO_MIN of Linux, to which a round trip is added
PROBE_LEAST_S = 0.008  # two ticks of a kernel with 250 a second, which a tail loss probe waits beside two round trips
MOST_AGAIN = 6  # times that a repetition is lost: Linux gives a connection up after some more
REORDERING = 1.25  # round trips after which a packet counts as lost, since a later one was acknowledged


class DrawnDelays(CostModel):
    """The cost model of one token, whose messages take drawn delays. `links` are the emulated links as they are now."""

    def __init__(self, observation: Observation, links: Mapping[str, Link], dilation: float, drawn: Random) -> None:
        super().__init__(observation)
        self._links, self._drawn = links, drawn
        self._timeout_s, self._probe_s = TIMEOUT_S / dilation, PROBE_LEAST_S / dilation

    def path(self, source: str, target: str, payload: float) -> Path:
        """The path of one message, with the delays that it meets; what is lost delays it on the last link."""
        plain = super().path(source, target, payload)
        packets, arrives = packets_of(payload), 1.0
        legs = []
        for leg in plain:
            jitter_s, loss = self._impairment(leg.hop)
            if jitter_s:
                longest = self._drawn.random() ** (1 / packets)  # of so many even numbers
                leg = leg._replace(delay_s=leg.delay_s + jitter_s * (2 * longest - 1))
            arrives *= 1 - loss
            legs.append(leg)
        if arrives < 1:
            back = super().path(target, source, 0.0)
            trip_s = transfer_seconds(plain, payload) + transfer_seconds(back, 0.0)
            late_s = self._repetition_s(packets, 1 - arrives, trip_s)
            legs[-1] = legs[-1]._replace(delay_s=legs[-1].delay_s + late_s)
        return tuple(legs)

    def _impairment(self, hop: Hop) -> tuple[float, float]:
        """(jitter in seconds, share of lost packets) of a link's direction."""
        link = self._links[hop[0]]
        return (link.up_jitter_s, link.up_loss) if hop[1] == UP else (link.down_jitter_s, link.down_loss)

    def _repetition_s(self, packets: int, loss: float, trip_s: float) -> float:
        """By how much lost packets delay a message."""
        lost = [number for number in range(packets) if self._drawn.random() < loss]
        if not lost:
            return 0.0
        timeout_s = trip_s + self._timeout_s
        if lost[-1] < packets - 1:
            late_s = REORDERING * trip_s
        elif packets == 1:
            late_s = timeout_s
        else:
            late_s = min(timeout_s, 2 * trip_s + self._probe_s)
            late_s += trip_s if len(lost) > 1 else 0.0  # what else was lost is told by the probe's acknowledgement
        again = max(self._lost_again(loss) for _ in lost)
        return late_s + timeout_s * (2**again - 1)

    def _lost_again(self, loss: float) -> int:
        """How often a repetition is lost, too."""
        count = 0
        while count < MOST_AGAIN and self._drawn.random() < loss:
            count += 1
        return count

    def _half_layer(
        self, holder: str, x_order: Sequence[str], x: float, work: Sequence[Work], target: str, seconds: float
    ) -> float:
        sent = [(holder, device, x) for device in x_order]
        sent += [(item.device, target, item.payload_bytes) for item in work if item.device != target]
        paths = {(one, other): self.path(one, other, payload) for one, other, payload in sent}
        seen = self.observation
        return half_layer_latency(seen.links, seen.hop_overhead_s, holder, x_order, x, work, target, seconds, paths)


def packets_of(payload_bytes: float) -> int:
    """How many packets a message takes."""
    return ceil(wire_bytes(payload_bytes) / FRAME_BYTES)


def drawn_delays(
    experiment: Experiment, observation: Observation, links: Mapping[str, Link], token: int
) -> DrawnDelays | None:
    """The cost model of a token, whose draws depend on the seed and the token's number alone; None: none are drawn."""
    if not experiment.needs_netem:
        return None
    return DrawnDelays(observation, links, experiment.dilation, Random(f"{experiment.seed}/{token}"))
