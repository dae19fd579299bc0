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
    """The observation with less memory on each device: by `margin` times the spread of the memory's estimate."""
    estimates = observation.estimates
    if not margin or estimates is None:
        return observation
    shares = {view.name: margin * estimates[f"device/{view.name}", "memory"].spread for view in observation.devices}
    if not any(shares.values()):
        return observation
    views = tuple(
        replace(view, available_bytes=max(0, int(view.available_bytes * (1 - shares[view.name]))))
        for view in observation.devices
    )
    return replace(observation, devices=views)


def is_worth_moving(observation: Observation, present: Placement, wanted: Placement, hysteresis: float) -> bool:
    """Whether a move gains more, in the rest of the run, than `hysteresis` times the spread of what it depends on.

    A placement that no longer fits must move. Rates are taken to stay as they are.
    """
    estimates = observation.estimates
    if not hysteresis or estimates is None or not present.moves_to(wanted) or shortages(observation, None, present):
        return True
    rest = replace(observation, interval=max(1, observation.tokens_max - observation.tokens_done))
    stay_s, move_s = (interval_cost(rest, present, placement) for placement in (present, wanted))
    used = {*present.devices.values(), *wanted.devices.values()}
    return stay_s - move_s > hysteresis * _spread(observation, used) * stay_s


def _spread(observation: Observation, devices: set[str]) -> float:
    """The largest spread among the rates of these devices and of the links between them."""
    estimates = observation.estimates or {}
    keys = {(f"device/{name}", quantity) for name in devices for quantity in ("streaming", "compute")}
    for sender in devices:
        for receiver in devices - {sender}:
            keys |= {(f"link/{leg.hop[0]}", leg.hop[1]) for leg in observation.path(sender, receiver)}
    return max((estimates[key].spread for key in keys if key in estimates), default=0.0)
