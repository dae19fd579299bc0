"""Asks the policy of a run, and writes down what it returned where it misbehaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from testbed.clock import EmulatedClock
from testbed.controller.journal import Journal
from testbed.controller.policy_call import Decision, PolicyMisbehaved, call_policy, reset_policy
from testbed.controller.reconciling import off_the_lost
from testbed.controller.recorder import Recorder
from testbed.controller.run_state import RunState
from testbed.experiment.schema import Experiment
from testbed.placement.blocks import Placement
from testbed.placement.observation import Observation, Policy
from testbed.runlog.folder import RunLog


@dataclass
class Decider:
    """The policy of one run."""

    policy: Policy
    experiment: Experiment
    clock: EmulatedClock
    state: RunState
    recorder: Recorder
    log: RunLog
    journal: Journal
    listen: Callable[[], None]  # reacts to what happens meanwhile

    def needs_links(self, first: bool = False) -> bool:
        """Whether the policy looks at links now, so that probing them is worth it; some do at `first` alone."""
        needs = getattr(self.policy, "needs_links", True)
        return first if needs == "first" else bool(needs)

    def ask(self, observation: Observation, placement: Placement | None) -> Decision:
        """The policy's checked decision. Blocks of no size that it leaves on lost devices go to the source.

        Where it misbehaves, the log says what it returned before the run fails.
        """
        try:
            if placement is None:
                reset_policy(self.policy, self.experiment.seed, observation)
            self.journal.asked(observation, placement)  # it may remember what it decides in vain, too
            decision = call_policy(self.policy, observation, placement, self.experiment.decision_limit, self.listen)
            if decision.placement is None:
                return decision
            return replace(decision, placement=off_the_lost(decision.placement, self.state.lost, observation))
        except PolicyMisbehaved as error:
            step = self.state.tokens_done
            self.log.event("policy_misbehaved", self.clock.now(), step=step, reason=str(error), returned=error.returned)
            self.recorder.decision(
                epoch=placement.epoch if placement is not None else 0, step=step, policy=self.policy.name,
                decision_s=error.decision_s, moved=0, feasible=False, reason=str(error),
            )  # fmt: skip
            raise
