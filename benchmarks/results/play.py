"""Simulates one run in this process without a run folder, so that thousands of cells take minutes.

A test checks that decisions and figures equal those of `testbed replay --backend sim`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from testbed.controller.calibration import NOMINAL_HOP_S
from testbed.controller.conditions import Conditions, observe
from testbed.experiment.schema import Experiment
from testbed.placement.blocks import Placement
from testbed.placement.cost.forecast import Forecast
from testbed.placement.cost.memory import Infeasible, device_needs
from testbed.placement.cost.model import cached_length, migration_delay
from testbed.placement.observation import Observation, Policy
from testbed.placement.plan import make_plan


@dataclass(frozen=True)
class Interval:
    """What a token took in an interval of a run, and what devices held at its last token or while blocks moved."""

    tokens_done: int  # at its end
    token_ms: float  # mean, without the stall
    stall_ms: float
    total_bytes: int  # of all devices, after the move
    most_share: float  # the largest share of its memory that any device held


@dataclass
class Played:
    """The outcome of a run."""

    status: str = "done"  # done, infeasible (no first placement), or oom
    reason: str = ""
    tokens_s: float = 0.0  # of decode tokens, without the token of the prefill
    stall_s: float = 0.0
    decoded: int = 0
    tokens_done: int = 0  # with the token of the prefill
    refused_at: int | None = None  # tokens done when the policy first found no placement that fits
    moved: int = 0  # blocks
    unproven: int = 0  # decisions whose optimum the policy did not prove
    decision_s: list[float] = field(default_factory=list)
    intervals: list[Interval] = field(default_factory=list)
    first: Placement | None = None
    observation: Observation | None = None  # the first one

    @property
    def cost_ms(self) -> float:
        """The milliseconds per decode token, including migrations; infinite for a run that did not finish."""
        return 1e3 * (self.tokens_s + self.stall_s) / self.decoded if self.status == "done" else math.inf


def play(experiment: Experiment, policy: Policy, hop_s: float = NOMINAL_HOP_S) -> Played:
    """Run an experiment with a policy until the end, or until it has no placement or a device no memory.

    A decrease of memory that is not announced (`grace: 0`) holds before the policy decides.
    """
    conditions = Conditions(experiment)
    conditions.begin()
    prompt = experiment.prompt_tokens
    assert prompt is not None
    found = Played()
    policy.reset(experiment.seed)
    placement: Placement | None = None
    for boundary, done in enumerate(range(0, experiment.tokens, experiment.interval)):
        if done:
            conditions.advance(float(done), boundary)
        seen = observe(experiment, conditions, prompt, done, hop_s)
        if placement is not None and _over(conditions, seen, placement, cached_length(seen)):
            return _ended(found, "memory was taken away without notice")
        started = time.perf_counter()
        wanted, decided = placement, True
        try:
            wanted = policy.decide(seen, placement)
        except Infeasible as error:
            decided = False
            found.reason = str(error)
            found.refused_at = done if found.refused_at is None else found.refused_at
        if wanted is None:
            return Played("infeasible", found.reason, refused_at=0)
        found.decision_s.append(time.perf_counter() - started)
        found.unproven += not getattr(policy, "proven", True)
        stall_s, moving = 0.0, 0.0
        if placement is None:
            found.first, found.observation = wanted, seen
        elif placement.moves_to(wanted):
            stall_s = migration_delay(seen, placement, wanted, cached_length(seen))
            found.moved += len(placement.moves_to(wanted))
            moving = _double_share(conditions, seen, placement, wanted)
        found.stall_s += stall_s
        placement = wanted
        conditions.enforce(boundary, decided)
        lengths = range(seen.length + (done == 0), seen.final_length + 1)
        fitting = _fitting(conditions, seen, placement, lengths)
        spent = _generate(found, seen, placement, lengths[:fitting])
        found.tokens_done = done + (done == 0) + fitting
        if fitting < len(lengths):
            return _ended(found, found.reason)
        needs = device_needs(seen, placement, seen.final_length)
        share = max(moving, _share(needs, {name: conditions.enforced_memory(name) for name in needs}))
        per_token_ms = 1e3 * spent / max(1, len(lengths))
        found.intervals.append(Interval(found.tokens_done, per_token_ms, 1e3 * stall_s, sum(needs.values()), share))
    return found


def _ended(found: Played, reason: str) -> Played:
    """The run that ends because a device came over its memory."""
    found.status, found.reason = "oom", f"a device ran out of memory: {reason}"
    return found


def _over(conditions: Conditions, seen: Observation, placement: Placement, length: int) -> bool:
    """Whether a device holds more than the memory that is enforced, with so many positions in the caches."""
    needs = device_needs(seen, placement, length)
    return any(need > conditions.enforced_memory(device) for device, need in needs.items())


def _fitting(conditions: Conditions, seen: Observation, placement: Placement, lengths: range) -> int:
    """How many of these lengths all devices have memory for; the need grows with the length."""
    if not lengths or not _over(conditions, seen, placement, lengths[-1]):
        return len(lengths)
    return next(number for number, length in enumerate(lengths) if _over(conditions, seen, placement, length))


def _share(needs: Mapping[str, int], budgets: Mapping[str, int]) -> float:
    """The largest share of its budget that a device needs."""
    return max(need / budgets[device] for device, need in needs.items() if budgets[device])


def _double_share(conditions: Conditions, seen: Observation, old: Placement, new: Placement) -> float:
    """The largest share while blocks move: devices that get some hold them beside their old ones."""
    length = cached_length(seen)
    before, empty = device_needs(seen, old, length), device_needs(seen, None, length)
    moved = Placement({block: device for block, device in new.devices.items() if old.devices[block] != device})
    coming = device_needs(seen, moved, length)
    both = {device: before[device] + coming[device] - empty[device] for device in before}
    return _share(both, {device: conditions.enforced_memory(device) for device in both})


def _generate(found: Played, seen: Observation, placement: Placement, lengths: range) -> float:
    """Generate the tokens of an interval under constant conditions; returns their seconds."""
    if not lengths:
        return 0.0
    forecast = Forecast(seen, make_plan(seen, placement), lengths[-1])
    spent = sum(forecast.seconds(length) for length in lengths)
    found.tokens_s += spent
    found.decoded += len(lengths)
    return spent
