"""What a policy may do about estimates that may be wrong: leave memory free, and move only for a gain that is sure.

An observation that shows the trace has no estimates, and nothing here changes what a policy does with it.
"""

from __future__ import annotations

from dataclasses import replace

from testbed.placement.blocks import Placement
from testbed.placement.cost.memory import shortages
from testbed.placement.cost.model import interval_cost
from testbed.placement.observation import Observation


def with_margin(observation: Observation, margin: float) -> Observation:
    """The observation with less memory on each device: by this share, or by its spread where that is larger."""
    estimates = observation.estimates
    if not margin or estimates is None:
        return observation
    spreads = [estimates[f"device/{view.name}", "memory"].spread for view in observation.devices]
    views = [
        replace(view, available_bytes=int(view.available_bytes * (1 - max(margin, spread))))
        for view, spread in zip(observation.devices, spreads, strict=True)
    ]
    return replace(observation, devices=tuple(views))


def is_worth_moving(observation: Observation, present: Placement, wanted: Placement, hysteresis: float) -> bool:
    """Whether a move gains more, in the rest of the run, than `hysteresis` times the spread of what it depends on.

    A placement that no longer fits must move. Rates are taken to stay as they are.
    """
    estimates = observation.estimates
    if not hysteresis or estimates is None or not present.moves_to(wanted) or shortages(observation, None, present):
        return True
    stay_s, move_s = rest_of_run_s(observation, present, present), rest_of_run_s(observation, present, wanted)
    used = {*present.devices.values(), *wanted.devices.values()}
    return stay_s - move_s > hysteresis * _spread(observation, used) * stay_s


def rest_of_run_s(observation: Observation, present: Placement, wanted: Placement) -> float:
    """Seconds that the rest of the run takes, migration included, if all stays as it is observed."""
    rest = replace(observation, interval=max(1, observation.tokens_max - observation.tokens_done))
    return interval_cost(rest, present, wanted)


def _spread(observation: Observation, devices: set[str]) -> float:
    """The largest spread among the rates of these devices and of the links between them."""
    estimates = observation.estimates or {}
    keys = {(f"device/{name}", quantity) for name in devices for quantity in ("streaming", "compute")}
    for sender in devices:
        for receiver in devices - {sender}:
            keys |= {(f"link/{leg.hop[0]}", leg.hop[1]) for leg in observation.path(sender, receiver)}
    return max((estimates[key].spread for key in keys if key in estimates), default=0.0)
