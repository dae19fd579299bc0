"""Carries a run over the loss of devices: what they held is placed on the living, and KV caches are recomputed.

Interrupt, ask who holds what, decide, load, commit, recompute: after each step a further loss begins the whole anew,
because nothing before the commit binds anybody and the living say themselves what they hold. The caches are recomputed
by running the prompt and all tokens but the last through the model. Bits depend neither on chunks of rows nor on
devices, so caches that were not lost get the bits that they had. With replicas, rows travel with the blocks, and only
what some cache lacks then is recomputed. The token under way is then generated again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from testbed.clock import EmulatedClock
from testbed.controller.boundary import MIGRATION_PATIENCE
from testbed.controller.event_loop import EventLoop
from testbed.controller.losses import DeviceGone, NotSurvived
from testbed.controller.migration import Migration, Move
from testbed.controller.migration_driver import MigrationResult
from testbed.controller.policy_call import Decision
from testbed.controller.reconciling import (
    Held,
    Rows,
    adopted,
    drops,
    filled_in,
    lasting,
    left_behind,
    loads,
    overfull,
    present,
    whole_rows,
    with_rows,
)
from testbed.controller.recorder import Recorder
from testbed.controller.run_state import RunState
from testbed.errors import RunFailed
from testbed.experiment.schema import Experiment
from testbed.placement.blocks import Block, Placement, parse_block, payload_bytes, state_bytes
from testbed.placement.cost.memory import shortages
from testbed.placement.cost.model import (
    cached_length,
    chunk_rows,
    migration_around_s,
    migration_loads,
    prefill_latency,
    token_latency,
)
from testbed.placement.observation import Observation
from testbed.placement.plan import Plan, make_plan
from testbed.transport.messages import Interrupt, Interrupted, Rebuild, Rebuilt, Token

# Wall seconds.
INTERRUPT_PATIENCE_S = 30.0  # for a device to finish its operation and answer
RECOVERY_PATIENCE_S = 60.0  # to move blocks, and to fill caches, besides what they are predicted to take

Ask = Callable[[Observation, Placement | None], Decision]
# Carries out a migration: seconds of patience, predicted seconds, and the rows of each cache that travel if not all.
Drive = Callable[[Migration, Plan, Observation, float, float | None, int | None], MigrationResult]


class Way(NamedTuple):
    """A way to whole caches: so many rows of each are kept, in part because they travel; the rest is recomputed."""

    rows: int
    moves: list[Move]
    moving_s: float  # predicted, for blocks and rows
    rebuilding_s: float  # predicted


@dataclass
class Recovery:
    """The recoveries of one run. `ask` calls the policy, `drive` carries out a migration, `take` notes a token.

    `again` is the number of known tokens that are generated once more, in a run that goes on.
    """

    experiment: Experiment
    prompt: Sequence[int]
    loop: EventLoop
    state: RunState
    recorder: Recorder
    clock: EmulatedClock
    ask: Ask
    drive: Drive
    take: Callable[[Token], None]
    generated: Callable[[], Sequence[int | None]]  # the tokens so far
    ended: Callable[[], bool]  # whether no further token is to come
    policy: str
    again: int = 0

    def run(self) -> None:
        """Go on without the lost devices, however many more are lost meanwhile; raises RunFailed where that fails."""
        noticed_s = self.clock.now()
        while True:
            try:
                return self._once(noticed_s)
            except DeviceGone:
                continue

    def first_token(self, token: Token) -> None:
        """Note the first token after a recovery."""
        if self.state.recovery is not None:
            self.recorder.recovery(**self.state.recovery, token_s=self.clock.at(token.end_s))
            self.state.recovery = None

    def close(self) -> None:
        """Write down a recovery after which no token came."""
        if self.state.recovery is not None:
            self.recorder.recovery(**self.state.recovery)
            self.state.recovery = None

    def _once(self, noticed_s: float) -> None:
        loop, state = self.loop, self.state
        state.moving = ()
        state.epoch += 1
        held, replicas, next_pass = self.interrupt(state.epoch)
        self.close()  # unless the first token after it has been reported meanwhile
        if self.ended():
            return
        truth, observation = loop.observation(), loop.seen(needs_links=False)
        now = present(state.placed()[0], held)
        self.clock.pause()
        try:
            decision, wanted = self._decide(observation, adopted(now, held, replicas), held)
        finally:
            self.clock.resume()
        decided_s = self.clock.now()
        plan = make_plan(observation, wanted)
        way = self._way(truth, plan, wanted, now, held, replicas)
        state.moving, state.whole_rows, moves, start = way.moves, way.rows, way.moves, way.rows
        shape, partition = self.experiment.shape, self.experiment.partition
        loaded = sum(payload_bytes(shape, move.block, 0, True, partition) for move in moves)
        slowest_s = loaded / min(view.storage_Bps for view in observation.devices) * self.experiment.dilation
        migration = Migration(state.epoch, loop.living(), moves, drops(wanted, held))
        patience_s = RECOVERY_PATIENCE_S + max(slowest_s, MIGRATION_PATIENCE * way.moving_s * self.experiment.dilation)
        self.drive(migration, plan, observation, patience_s, way.moving_s, start)
        state.moving = ()
        if migration.phase != "done" and start:
            state.whole_rows = 0  # a replica has had to go meanwhile, or a link has become slow: try without
            return self._once(noticed_s)
        if migration.phase != "done":
            raise RunFailed(f"the loss of {self._told()} cannot be survived: {migration.reason}")
        state.placement, state.plan = wanted, plan
        step = state.tokens_done + self.again
        self.recorder.placement(wanted, step)
        committed_s = self.clock.now()
        rows, predicted_s = self.rebuild(truth, plan, next_pass, start)
        stall_s = self.clock.trace_now() - state.last_token_s
        found = shortages(truth, None, wanted)
        self.recorder.decision(
            epoch=state.epoch, step=step, policy=self.policy,
            decision_s=decision.decision_s, moved=len(moves),
            predicted_after_s=token_latency(truth, plan, truth.length), feasible=not found,
            reason=self._loss(), stall_s=stall_s, proof=decision.proof,
        )  # fmt: skip
        state.recovery = {
            "epoch": state.epoch, "step": step, "devices": ",".join(sorted(state.lost)),
            "noticed_s": noticed_s, "decided_s": decided_s, "committed_s": committed_s,
            "rebuilt_s": self.clock.now(), "predicted_s": predicted_s, "blocks": len(moves),
            "loaded_bytes": loaded, "rows": rows, "kept_rows": start,
        }  # fmt: skip

    def _way(
        self, truth: Observation, plan: Plan, wanted: Placement, now: Placement, held: Held, replicas: Rows
    ) -> Way:  # fmt: skip
        """The way that is predicted to be the faster: caches stay where they are, or rows of them travel, too.

        No rows are kept without replicas, and none that an earlier recovery still owes.
        """
        length, most = cached_length(truth), self.state.whole_rows
        if self.experiment.recovery.method == "recompute":
            most = 0
        replicas = lasting(truth, held, wanted, replicas, length)
        sources, moves = adopted(now, held, replicas), loads(now, wanted, held)
        row_bytes = state_bytes(self.experiment.shape, Block("head", 0), 1)

        def way(placed: Placement) -> Way:
            rows = whole_rows(placed, held, replicas, length if most is None else min(length, most))
            carried = with_rows(moves, sources, replicas, rows, row_bytes)
            asked, delay_s = migration_loads(truth, [(m.block, m.source, m.destination) for m in carried], rows)
            moving_s = max(load.seconds for load in asked) + migration_around_s(truth, delay_s) if asked else 0.0
            return Way(rows, carried, moving_s, self._rebuilding_s(truth, plan, length - rows, rows))

        return min(map(way, (wanted, sources)), key=lambda one: one.moving_s + one.rebuilding_s)

    def _rebuilding_s(self, truth: Observation, plan: Plan, count: int, start: int) -> float:
        """Predicted seconds to recompute so many rows from row `start` on."""
        rows = chunk_rows(count, self.experiment.prefill_chunk)
        return prefill_latency(truth, plan, rows, start=start, lm_head=False) if rows else 0.0

    def interrupt(self, epoch: int) -> tuple[Held, Rows, int]:
        """Have the living drop what is under way; returns what each holds, its replicas, and the source's next pass."""
        loop, state, reports = self.loop, self.state, dict[str, Interrupted]()
        living, lost = loop.living(), state.without_worker
        for device in living:
            loop.send(device, Interrupt(epoch, lost))
        for device in living:
            while device not in reports:
                report: Interrupted = loop.answer(Interrupted, device, INTERRUPT_PATIENCE_S)
                if report.epoch == epoch:
                    reports[device] = report
        for token in loop.take_tokens():
            self.take(token)
        source = reports[self.experiment.topology.source]
        if source.tokens != state.tokens_done:
            raise RunFailed(
                f"device {self.experiment.topology.source} has generated {source.tokens} tokens, and "
                f"{state.tokens_done} have been reported"
            )
        held = {device: frozenset(map(parse_block, report.blocks)) for device, report in reports.items()}
        replicas = {
            device: {parse_block(name): rows for name, rows in report.replicas} for device, report in reports.items()
        }
        return held, replicas, source.next_pass

    def _decide(self, observation: Observation, now: Placement, held: Held) -> tuple[Decision, Placement]:
        """The policy's decision, and the placement on the living that it means.

        A policy that leaves blocks where they are is asked for a first placement, in which lost devices have no room.
        Where that does not fit beside what the living hold, they keep it, and take what is lost wherever it fits.
        """
        decision = self.ask(observation, now)
        refusal = self._refusal(observation, decision)
        if refusal or (decision.placement and overfull(observation, held, decision.placement)):
            decision = self.ask(observation, None)
            refusal = self._refusal(observation, decision)
        wanted = decision.placement
        if refusal or wanted is None:
            raise NotSurvived(f"the loss of {self._told()} cannot be survived: {refusal}")
        unfit = overfull(observation, held, wanted)
        fitting = filled_in(observation, now, held) if unfit else wanted
        if fitting is None:
            raise NotSurvived(f"the loss of {self._told()} cannot be survived: {unfit}")
        return decision, replace(fitting, epoch=self.state.epoch)

    def _refusal(self, observation: Observation, decision: Decision) -> str | None:
        """Why a decision says nothing of where lost blocks go, or None."""
        if decision.placement is None:
            return decision.reason
        left = left_behind(decision.placement, self.state.lost, observation)
        return f"policy {self.policy} leaves {left[0]} on a lost device" if left else None

    def rebuild(self, truth: Observation, plan: Plan, next_pass: int, start: int = 0) -> tuple[int, float]:
        """Have all KV caches recomputed from row `start` on; returns the rows and the predicted time.

        A prefill begins anew instead.
        """
        experiment, done = self.experiment, self.state.tokens_done
        ids = [*self.prompt, *(token or 0 for token in self.generated()[:-1])] if done else []
        rows = chunk_rows(len(ids) - start, experiment.prefill_chunk)
        self.loop.passes.restart(done, next_pass, len(rows))
        predicted_s = self._rebuilding_s(truth, plan, len(ids) - start, start)
        if rows:
            source = experiment.topology.source
            self.loop.faults.suspects.pass_s = predicted_s * experiment.dilation
            self.loop.send(source, Rebuild(ids, experiment.prefill_chunk, start))
            self.loop.answer(Rebuilt, source, RECOVERY_PATIENCE_S + 10 * predicted_s * experiment.dilation)
        self.state.whole_rows = None
        return len(ids) - start, predicted_s

    def _loss(self) -> str:
        return f"devices {self._told()} are lost" if len(self.state.lost) > 1 else f"device {self._told()} is lost"

    def _told(self) -> str:
        return ", ".join(sorted(self.state.lost))
