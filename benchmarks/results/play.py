"""Simulates one run in this process without a run folder, so that thousands of cells take minutes.

A test checks that decisions and figures equal those of `testbed replay --backend sim`.
"""

from __future__ import annotations

import math
import time
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


@dataclass
class Played:
    """The outcome of a run."""

    status: str = "done"  # done, infeasible (no first placement), or oom
    reason: str = ""
    tokens_s: float = 0.0  # of decode tokens, without the token of the prefill
    stall_s: float = 0.0
    decoded: int = 0
    moved: int = 0  # blocks
    unproven: int = 0  # decisions whose optimum the policy did not prove
    decision_s: list[float] = field(default_factory=list)
    first: Placement | None = None
    observation: Observation | None = None  # the first one

    @property
    def cost_ms(self) -> float:
        """The milliseconds per decode token, including migrations; infinite for a run that did not finish."""
        return 1e3 * (self.tokens_s + self.stall_s) / self.decoded if self.status == "done" else math.inf


def play(experiment: Experiment, policy: Policy, hop_s: float = NOMINAL_HOP_S) -> Played:
    """Run an experiment with a policy until the end, or until it has no placement."""
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
        started = time.perf_counter()
        wanted, decided = placement, True
        try:
            wanted = policy.decide(seen, placement)
        except Infeasible as error:
            decided = False
            found.reason = str(error)
        if wanted is None:
            return Played("infeasible", found.reason)
        found.decision_s.append(time.perf_counter() - started)
        found.unproven += not getattr(policy, "proven", True)
        if placement is None:
            found.first, found.observation = wanted, seen
        elif placement.moves_to(wanted):
            found.stall_s += migration_delay(seen, placement, wanted, cached_length(seen))
            found.moved += len(placement.moves_to(wanted))
        placement = wanted
        conditions.enforce(boundary, decided)
        for device, need in device_needs(seen, placement, seen.final_length).items():
            if need > conditions.enforced_memory(device):
                found.status, found.reason = "oom", f"device {device} ran out of memory: {found.reason}"
                return found
        _generate(found, seen, placement)
    return found


def _generate(found: Played, seen: Observation, placement: Placement) -> None:
    """Generate the tokens of an interval under constant conditions."""
    forecast = Forecast(seen, make_plan(seen, placement), seen.final_length)
    for length in range(seen.length + (seen.tokens_done == 0), seen.final_length + 1):
        found.tokens_s += forecast.seconds(length)
        found.decoded += 1
