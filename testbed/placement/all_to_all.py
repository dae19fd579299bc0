"""How long half a layer takes where every device adds up for itself.

With an all-to-all exchange x is not at one device but at all that still have work to do in the token. `half_latency` is
to such a half what `latency.half_layer_latency` is to one with a hub. A half begins when the last of these devices has
x, and ends when the last device that needs the result has it. So a token is the sum of its halves here too. Real
workers do not wait for one another. Where some have x long before others, a prediction is later than what happens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from testbed.placement.latency import Work, message_bits
from testbed.placement.observation import Hop, Path
from testbed.wire import OUTAGE_BPS


class Message(NamedTuple):
    """One message: when it is ready to leave, its path and its payload."""

    ready_s: float
    path: Path
    payload_bytes: float


def arrivals(messages: Sequence[Message]) -> list[float]:
    """When each message has arrived whole, in seconds.

    A link carries one message at a time, in the order in which first bytes arrive, and those that arrive together in
    the order given. Each occupies it for its bits / (the least rate so far on its path). Links are cut-through, as in
    `latency.half_layer_latency`.
    """
    coming = [(message.ready_s, number, 0, float("inf")) for number, message in enumerate(messages)]
    heapify(coming)  # (when, message, links passed, least rate so far)
    bits = [message_bits(message.payload_bytes) for message in messages]
    free: dict[Hop, float] = {}
    found = [0.0] * len(messages)
    while coming:
        when, number, passed, rate = heappop(coming)
        path = messages[number].path
        hop, rate_bps, delay = path[passed]
        rate = min(rate, max(rate_bps, OUTAGE_BPS))
        start = max(when, free.get(hop, 0.0))
        free[hop] = start + bits[number] / rate
        if passed + 1 < len(path):
            heappush(coming, (start + delay, number, passed + 1, rate))
        else:
            found[number] = free[hop] + delay
    return found


def in_turn(targets: Sequence[str], turn: int) -> tuple[str, ...]:
    """The order in which the `turn`-th device with work sends its results; each device begins with another target."""
    turn %= len(targets)
    return (*targets[turn:], *targets[:turn])


def spread_latency(
    path: Callable[[str, str], Path], hop_s: float, holder: str, order: Sequence[str], x: float
) -> float:
    """Seconds until the last device of `order` can use x, a payload of so many bytes that is at `holder`."""
    sent = [Message(0.0, path(holder, device), x) for device in order]
    return max(arrivals(sent)) + hop_s if sent else 0.0


def half_latency(
    path: Callable[[str, str], Path],
    hop_s: float,
    work: Sequence[Work],
    targets: Sequence[str],
    target_seconds: Sequence[float],
) -> float:
    """Seconds from "x is at every device with work, and at every target" to "the last target has added up".

    `target_seconds` is what adding up takes at each target. The results of one device go to each target as one message,
    which can be used `hop_s` after it has arrived.
    """
    ready = [0.0] * len(targets)
    place = {device: number for number, device in enumerate(targets)}
    messages: list[Message] = []
    receivers: list[int] = []
    for turn, (device, seconds, payload) in enumerate(work):
        for target in in_turn(targets, turn):
            if target == device:
                ready[place[target]] = seconds
            else:
                messages.append(Message(seconds, path(device, target), payload))
                receivers.append(place[target])
    for receiver, arrived in zip(receivers, arrivals(messages), strict=True):
        ready[receiver] = max(ready[receiver], arrived + hop_s)
    return max(there + seconds for there, seconds in zip(ready, target_seconds, strict=True))
