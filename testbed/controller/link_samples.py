"""What messages and bursts tell of links, and how well that can be seen. Device clocks need not agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

FASTEST_BPS, SLOWEST_BPS = 1e13, 1.0
HALVINGS = 60
ROUGH_NOISES = 10  # a rate that was found from a shorter time is rough


class Message(NamedTuple):
    """One message; each end has its own clock."""

    sender: str
    receiver: str
    bits: float  # on the wire
    sent_s: float  # by the sender's clock
    received_s: float  # by the receiver's


class Train(NamedTuple):
    """A burst of bits over one path and the time that its bits took, by the receiver's clock alone."""

    sender: str
    receiver: str
    bits: float
    seconds: float
    apparent_s: float | None = None  # of an empty message before it: the receiver's stamp less the sender's


class Transit(NamedTuple):
    """How a link carries a message, and how well that can be seen."""

    burst_bits: Callable[[float], float]  # what an idle link of a rate passes at once
    noise_s: float  # of a time stamp
    tolerance: float

    def seconds(self, bits: float, rate_bps: float) -> float:
        """How long an idle path of this rate holds a message, beside its delay."""
        return max(0.0, bits - self.burst_bits(rate_bps)) / max(rate_bps, SLOWEST_BPS)

    def agree(self, seen_s: float, expected_s: float) -> bool:
        """Whether what was seen is what was expected, as far as can be told."""
        return abs(seen_s - expected_s) <= max(2 * self.noise_s, self.tolerance * abs(expected_s), 1e-12)

    def rough(self, seen_s: float) -> bool:
        """Whether a rate that is found from so long a time may be far off."""
        return seen_s < ROUGH_NOISES * self.noise_s

    def rate(self, holding_s: Callable[[float], float], seen_s: float) -> float:
        """The rate at which a path would hold for so long, where `holding_s` of a rate falls with the rate."""
        low, high = SLOWEST_BPS, FASTEST_BPS
        for _ in range(HALVINGS):
            middle = (low * high) ** 0.5
            low, high = (middle, high) if holding_s(middle) > seen_s else (low, middle)
        return high


class PathRate(NamedTuple):
    """What messages tell of a path's rate."""

    rate_bps: float
    news: bool = True  # whether it is another one than was believed
    at_least: bool = False  # the path may be faster, so no link is slower because of it
    rough: bool = False  # found from so short a time that a probe should look again


class LinkBelief(Protocol):
    """What is believed of one quantity of a link."""

    value: float
    state: tuple[float, float | None, float]

    def hear(self, sample: float, now_s: float) -> None:
        """Take in a sample."""

    def confirm(self, now_s: float) -> None:
        """Take note that what was seen agrees."""
