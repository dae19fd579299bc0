"""Lets a run go on whose controller has died: new workers stand in for those that ended with it.

The blocks are loaded where they were, and the KV caches are recomputed from the tokens as after the loss of a device.
Then the last token is generated again. It must have the bits that the journal tells, or the model is another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from testbed.controller.conditions import Conditions
from testbed.controller.event_loop import START_PATIENCE_S, EventLoop
from testbed.controller.fleet import Fleet
from testbed.controller.journal import observation_of, placement_of, replay_crossings
from testbed.controller.losses import NotSurvived
from testbed.controller.migration import Migration
from testbed.controller.policy_call import call_policy, reset_policy
from testbed.controller.recovery import Drive, Recovery
from testbed.controller.run_state import RunState
from testbed.errors import ConfigError
from testbed.experiment.schema import Experiment
from testbed.placement.blocks import Placement
from testbed.placement.observation import Policy
from testbed.placement.plan import make_plan
from testbed.runlog.journal import Asked, Checkpoint, Past
from testbed.transport.messages import Continue, Decode, Prefill, Token


@dataclass
class Resumption:
    """What a controller needs to go on with a run. `generated` are the ids and digests of the tokens, to be filled."""

    past: Past
    experiment: Experiment
    prompt: list[int]
    ends: tuple[int, ...]
    fleet: Fleet
    policy: Policy
    loop: EventLoop
    state: RunState
    recovery: Recovery
    drive: Drive
    generated: tuple[list[int | None], list[str | None]]
    predicted_s: Callable[[], float]  # of the next token

    def set_conditions(self, conditions: Conditions) -> None:
        """Bring clock and traces to where the journal ends."""
        checkpoint = self._checkpoint()
        now_s, trace_s = checkpoint.now_s, checkpoint.trace_s
        if self.past.tokens:
            last = self.past.tokens[-1]
            now_s, trace_s = max(now_s, last.row["start_s"] + last.row["latency_s"]), max(trace_s, last.trace_s)
        self.fleet.clock.go_on_from(now_s, trace_s)
        on_tokens = self.experiment.trace_clock == "token"
        replay_crossings(conditions, self.past.crossings, trace_s, checkpoint.boundary, on_tokens)

    def restore(self) -> None:
        """Bring workers, policy and state to where the journal ends. The clock has not started yet."""
        checkpoint, state, tokens = self._checkpoint(), self.state, self.past.tokens
        state.placement = placement_of(checkpoint.placement, checkpoint.placement_epoch)
        state.epoch, state.boundary = checkpoint.epoch, checkpoint.boundary
        state.last_token_s = self.fleet.clock.trace_now()
        state.recovery = None if self.past.since else checkpoint.recovery
        for device in self.past.lost:
            state.devices[device].ended()
            self.fleet.kill(device)
        self._remind()
        self.loop.load(state.placement)
        self._take(len(tokens) - 1)
        self._rebuild(state.placement)
        if tokens:
            self._repeat_last()
        self.loop.collect()  # waits for a core are counted from here on

    def _checkpoint(self) -> Checkpoint:
        assert self.past.checkpoint is not None
        return self.past.checkpoint

    def _remind(self) -> None:
        """Show the policy all that it has been shown before, so that it remembers it."""
        if not getattr(self.policy, "remembers", True):
            return
        present = self.loop.observation()
        for asked in self.past.asked:
            observation, given = observation_of(asked, present), _given(asked)
            if given is None:
                reset_policy(self.policy, self.experiment.seed, observation)
            call_policy(self.policy, observation, given, self.experiment.decision_limit)

    def _take(self, count: int) -> None:
        """Take the first `count` tokens as generated, and tell the source of them."""
        if count < 1:
            return
        self._know(count)
        self.state.tokens_done = count
        sampling = self.experiment.seeded_sampling
        last = self.past.tokens[count - 1].row["token_id"]
        self.loop.send(self.experiment.topology.source, Continue(len(self.prompt), count, last, self.ends, sampling))

    def _know(self, count: int) -> None:
        ids, digests = self.generated
        known = self.past.tokens[:count]
        ids[:], digests[:] = ([line.row[key] for line in known] for key in ("token_id", "logits_digest"))

    def _rebuild(self, placement: Placement) -> None:
        """Commit the placement and fill the caches, or recover from losses that the run had not recovered from."""
        truth, observation = self.loop.observation(), self.loop.seen(needs_links=False, noted=False)
        self.state.whole_rows = 0  # new workers hold blocks without their rows
        if self.past.losses:
            self.state.plan = make_plan(observation, placement)
            self.recovery.again = len(self.past.tokens) - self.state.tokens_done
            try:
                self.recovery.run()
            except NotSurvived:
                self._know(len(self.past.tokens))
                raise
            self.recovery.again = 0
            return
        _, _, next_pass = self.recovery.interrupt(self.state.epoch)
        self.state.plan = make_plan(observation, placement)
        migration = Migration(placement.epoch, self.loop.living(), ())
        self.drive(migration, self.state.plan, observation, START_PATIENCE_S, None, None)
        self.recovery.rebuild(truth, self.state.plan, next_pass)

    def _repeat_last(self) -> None:
        """Generate the last known token again; raises ConfigError where its logits are not those of the journal."""
        source, number = self.experiment.topology.source, len(self.past.tokens)
        self.loop.passes.repeat(number)
        if number == 1:
            sampling = self.experiment.seeded_sampling
            self.loop.send(source, Prefill(self.prompt, self.experiment.prefill_chunk, 1, self.ends, sampling))
        else:
            self.loop.send(source, Decode(number))
        patience_s = START_PATIENCE_S + 10 * self.predicted_s() * self.experiment.dilation
        token: Token = self.loop.answer(Token, source, patience_s)
        row = self.past.tokens[-1].row
        if (token.token_id, token.logits_digest) != (row["token_id"], row["logits_digest"]):
            raise ConfigError(
                f"the logits of token {number - 1} are not those that the run had before: its model, its version of "
                "the testbed or the host's arithmetic has changed, so it cannot go on"
            )
        self.generated[0].append(token.token_id)
        self.generated[1].append(token.logits_digest)
        self.state.tokens_done = number


def _given(asked: Asked) -> Placement | None:
    return None if asked.given is None else placement_of(asked.given, asked.given_epoch)
