"""A forecast of the time after the coming interval, from past observations only.

Rates, delays and speeds are expected to return to the geometric mean of the past. In this mean the newest observation
has the weight `NEWEST`, and all before it have the rest. Memory that fell since the last observation is expected to
fall by as much once more. Other memory is expected to stay.
"""

from __future__ import annotations

import math
from dataclasses import replace

from testbed.placement.annealing.tuning import NEWEST
from testbed.placement.latency import STALLED_RATE
from testbed.placement.observation import DeviceView, LinkView, Observation

SHORTEST_DELAY_S = 1e-9  # delays of zero have no logarithm


class Outlook:
    """A run's past observations, remembered as one number per quantity."""

    def __init__(self) -> None:
        self._logs: dict[tuple[str, str], float] = {}
        self._memory: dict[str, int] = {}

    def after(self, observation: Observation) -> Observation | None:
        """What to expect from the interval's end to the run's end; None when the run ends with the interval.

        Remembers the observation, so call it once for each.
        """
        devices = tuple(self._device(view) for view in observation.devices)
        links = {name: self._link(name, link) for name, link in observation.links.items()}
        done = observation.tokens_done + observation.interval_tokens
        if done >= observation.tokens_max:
            return None
        left = observation.tokens_max - done
        return replace(observation, devices=devices, links=links, tokens_done=done, interval=left)

    def _device(self, view: DeviceView) -> DeviceView:
        fallen = max(0, self._memory.get(view.name, view.available_bytes) - view.available_bytes)
        self._memory[view.name] = view.available_bytes
        return replace(
            view,
            available_bytes=max(0, view.available_bytes - fallen),
            streaming_Bps=self._mean(view.name, "streaming", view.streaming_Bps, STALLED_RATE),
            compute_flops=self._mean(view.name, "compute", view.compute_flops, STALLED_RATE),
        )

    def _link(self, name: str, link: LinkView) -> LinkView:
        return LinkView(
            self._mean(name, "up", link.up_bps, 1.0),
            self._mean(name, "down", link.down_bps, 1.0),
            self._mean(name, "up delay", link.up_delay_s, SHORTEST_DELAY_S),
            self._mean(name, "down delay", link.down_delay_s, SHORTEST_DELAY_S),
        )

    def _mean(self, name: str, quantity: str, value: float, least: float) -> float:
        """The weighted geometric mean with the past; as long as the value never changed, it is the exact value."""
        key, log = (name, quantity), math.log(max(value, least))
        before = self._logs.get(key, log)
        self._logs[key] = mean = before + NEWEST * (log - before)
        return value if mean == log else math.exp(mean)
