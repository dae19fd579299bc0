"""For how long each simulated device has computed so far, where the power of a device is known."""

from __future__ import annotations

from itertools import accumulate

from testbed.placement.cost.busy import Busy
from testbed.placement.cost.model import chunk_rows
from testbed.placement.observation import Observation
from testbed.placement.plan import Plan
from testbed.topologies.model import Topology


class BusyTime:
    """Busy seconds by device. Where no device has a power nobody asks for them, and nothing is counted."""

    def __init__(self, topology: Topology) -> None:
        powered = any(device.model.busy_watts is not None for device in topology.devices)
        self.seconds = {device.name: 0.0 for device in topology.devices} if powered else None
        self._busy: tuple[Observation, Plan, Busy] | None = None

    def add(self, observation: Observation, plan: Plan, length: int, chunk: int) -> None:
        """Count a token that ends at `length`, or with a `chunk` the prefill, under the conditions at its end."""
        if self.seconds is None:
            return
        if self._busy is None or self._busy[0] is not observation or self._busy[1] is not plan:
            self._busy = observation, plan, Busy(observation, plan)
        rows = chunk_rows(length, chunk) if chunk else (1,)
        ends = accumulate(rows) if chunk else (length,)
        for end, count in zip(ends, rows, strict=True):
            for device, seconds in self._busy[2].seconds(end, count, end == length).items():
                self.seconds[device] += seconds
