"""Where a run stands: the one record that the main loop writes, and that the event loop and the run log read.

Plain values, no I/O. What the network and the devices are at a moment is `conditions`' business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from testbed.controller.device_state import DeviceState
from testbed.controller.migration import Move
from testbed.placement.blocks import Block, Placement
from testbed.placement.cost.copying import Paces
from testbed.placement.plan import Plan


@dataclass
class RunState:
    """A run at one moment. `placement` and its route `plan` are None until the first placement has been decided."""

    devices: Mapping[str, DeviceState] = field(default_factory=dict)
    begun: bool = False  # whether tokens are generated, so that a lost device can be recovered from
    placement: Placement | None = None
    plan: Plan | None = None  # what every worker runs now
    epoch: int = 0  # of the last change that was attempted; an aborted one uses its number up
    boundary: int = 0  # the index of the coming decision, or of the one that is being made
    tokens_done: int = 0
    last_token_s: float = 0.0  # time on the trace clock at which the last token was reported
    moving: Sequence[Move] = ()  # blocks on their way, which both of their devices hold
    copying: Paces = field(default_factory=dict)  # of those that are copied while tokens go on
    replicas: Mapping[Block, str] = field(default_factory=dict)  # head -> the device that keeps a replica of its cache
    # After a recovery that did not come to its end, the rows that all caches have for certain; None: all rows.
    whole_rows: int | None = None
    recovery: Mapping[str, Any] | None = None  # the row of the last recovery until its first token has come

    @property
    def lost(self) -> frozenset[str]:
        """The devices that hold nothing and are asked nothing."""
        return frozenset(name for name, device in self.devices.items() if not device.living)

    @property
    def without_worker(self) -> list[str]:
        """The lost devices that have not been started anew."""
        return sorted(name for name, device in self.devices.items() if device.state == "lost")

    def placed(self) -> tuple[Placement, Plan]:
        """The present placement and its route plan, once there is one."""
        assert self.placement is not None and self.plan is not None
        return self.placement, self.plan
