"""A worker's part of a forward pass: its stages in the order of layers, each run as soon as its inputs are there.

Every device takes its stages in the order in which a token meets them, so a stage that waits never blocks one before
it, and no placement can deadlock. On the source a pass begins with the embedding and ends with the LM head.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from testbed.decoder import kernels
from testbed.decoder.choice import best_choice, choose_token, logits_digest
from testbed.decoder.kernels import Floats
from testbed.decoder.store import BlockStore
from testbed.errors import RunFailed
from testbed.placement.blocks import ATTENTION, Block, Kind
from testbed.placement.operation import Cost, block_cost, embed_cost, lm_head_cost
from testbed.placement.plan import Plan
from testbed.transport.data import Activation
from testbed.transport.messages import Span
from testbed.words.sampling import Sampling
from testbed.worker.outbox import Outbox
from testbed.worker.pacing import Pacer, Timing
from testbed.worker.stages import CHOICE, IDS, Key, Stage, StageMaker


class Value(NamedTuple):
    """An array that a stage waits for, and what its critical path has cost so far."""

    array: np.ndarray
    ready_s: float
    compute_s: float
    transfer_s: float


@dataclass(frozen=True)
class Pass:
    """One forward pass; `step` counts the run's passes, prefill chunks included."""

    step: int
    position: int
    ids: tuple[int, ...]  # known on the source only
    ends: bool = True  # with a token; of a prefill only the last chunk does


@dataclass(frozen=True)
class PassResult:
    """What the source has at the end of a pass. After a prefill chunk that is not the last, there is no token."""

    step: int
    token_id: int
    logits_digest: str
    end_s: float
    compute_s: float
    transfer_s: float


class Asked(NamedTuple):
    """What an operation asks of its device."""

    counted: list[tuple[float, float]]  # of each block, for the pacer
    read_bytes: float
    flops: float


class Program:
    """Executes one device's stages of a plan, pass after pass."""

    def __init__(self, device: str, store: BlockStore, pacer: Pacer, outbox: Outbox) -> None:
        self.device = device
        self.store = store
        self.plan: Plan | None = None
        self.sampling: Sampling | None = None
        self.spans: list[Span] = []
        self._pacer, self._outbox = pacer, outbox
        self._stages: list[Stage] = []
        self._cursor = 0
        self._step = 0
        self._position = 0
        self._rows = 0
        self._ends = True
        self._values: dict[int, dict[Key, Value]] = {}  # by step
        self._asked: dict[tuple[str, int], Asked] = {}  # by kind and number of blocks, at this length and rows
        self._asked_for = (0, 0)
        self._result: PassResult | None = None
        self._void = -1  # activations of epochs up to this one are dropped, because they were interrupted
        self.interrupted = False  # until the next switch of plans no pass begins
        self.late: dict[str, int] = {}  # sender -> activations that were dropped

    # --- plan ------------------------------------------------------------------------------------------

    def switch(self, plan: Plan) -> None:
        """Run this plan from the next pass on; raises RunFailed in the middle of a pass."""
        if self._cursor or self._values:
            raise RunFailed(f"device {self.device}: epoch {plan.epoch} was committed in the middle of a pass")
        self.plan, self.interrupted = plan, False
        self._stages = StageMaker(self.device, plan, self.store.partition).stages()

    def interrupt(self) -> None:
        """Drop the pass under way, and all that is still to come of its epoch."""
        self._values, self._cursor, self._rows, self._result = {}, 0, 0, None
        self._void = self.plan.epoch if self.plan is not None else -1
        self.interrupted = True

    def receivers(self) -> list[str]:
        """The devices that this one sends to under the plan, in the order of first use."""
        plan = self._plan()
        found: dict[str, None] = {}
        holder = plan.source
        for layer in plan.layers:
            for half in (layer.attention, layer.ffn):
                if holder == self.device:
                    found |= dict.fromkeys(half.x_order)
                if self.device in half.work:
                    found |= dict.fromkeys(half.targets)
                holder = half.target
        if holder == self.device or (plan.vocab is not None and self.device in plan.vocab.work):
            found[plan.source] = None
        if plan.vocab is not None and plan.source == self.device:
            found |= dict.fromkeys(plan.vocab.x_order)
        found.pop(self.device, None)
        return list(found)

    # --- input -----------------------------------------------------------------------------------------

    def begin(self, new: Pass, now_s: float) -> None:
        """On the source: start a pass by giving its token ids to the embedding."""
        self._step, self._position, self._rows, self._ends = new.step, new.position, len(new.ids), new.ends
        ids = np.array(new.ids)
        self._values.setdefault(new.step, {})[IDS, 0, self.device] = Value(ids, now_s, 0.0, 0.0)

    def accept(self, header: Activation, payload: memoryview | bytes, due_s: float) -> None:
        """Store an activation. Its transfer ends when it is due here, however late this device takes it."""
        plan = self._plan()
        if header.epoch <= self._void:
            self.late[header.sender] = self.late.get(header.sender, 0) + 1
            return
        if header.epoch != plan.epoch:
            raise RunFailed(
                f"device {self.device}: a message of epoch {header.epoch} from {header.sender} in epoch {plan.epoch}"
            )
        value = Value(
            self._unpacked(header, payload), due_s, header.compute_s, header.transfer_s + due_s - header.sent_s
        )
        self._values.setdefault(header.step, {})[header.kind, header.layer, header.sender] = value
        if header.step > self._step or not self._rows:
            if self._cursor:  # the last pass had no LM head, so no row for its shards comes
                self._cursor = 0
                self._forget(self._step)
            self._step, self._position, self._rows = header.step, header.position, header.rows
        size = float(len(payload))
        label = f"{header.kind}({header.layer})"
        self.spans.append(
            Span(header.step, header.layer, "transfer", label, header.sender, self.device,
                 header.sent_s, due_s, size, 0.0, False, 0.0)
        )  # fmt: skip

    def _unpacked(self, header: Activation, payload: memoryview | bytes) -> Floats:
        """The rows of a message (rows, columns). A message can arrive at any address, and this is a copy."""
        if header.kind == CHOICE:  # numbers of four bytes, whatever else travels
            return np.frombuffer(payload, np.float32).reshape(header.rows, -1).copy()
        columns = len(payload) // (header.rows * self.store.shape.activation_bytes)
        return kernels.unpack(self.store.shape.wire_format, payload, header.rows, columns)

    def _packed(self, kind: str, out: Floats) -> bytes:
        return out.tobytes() if kind == CHOICE else kernels.pack(self.store.shape.wire_format, out)

    # --- running ---------------------------------------------------------------------------------------

    def advance(self) -> PassResult | None:
        """Run every stage whose inputs are there; returns the source's result when the pass is over."""
        while self._cursor < len(self._stages):
            stage, here = self._stages[self._cursor], self._values.get(self._step)
            if here is None:
                return None
            inputs = []
            for key in stage.wanted:
                value = here.get(key)
                if value is None:
                    return None
                inputs.append(value)
            self._cursor += 1
            self._run(stage, inputs)
            for key in stage.spent:  # so that a pass holds the values of one half-layer at most
                here.pop(key, None)
        if self._stages and self._rows and self._cursor == len(self._stages):
            self._cursor, self._rows = 0, 0
            self._forget(self._step)
        result, self._result = self._result, None
        return result

    def _forget(self, step: int) -> None:
        self._values = {number: values for number, values in self._values.items() if number > step}

    def _plan(self) -> Plan:
        if self.plan is None:
            raise RunFailed(f"device {self.device} was given work before a plan")
        return self.plan

    def _run(self, stage: Stage, inputs: list[Value]) -> None:
        kind = stage.kind
        last = max(inputs, key=_ready_s)
        if kind == "work":
            self._work(stage, inputs[0].array, last)
        elif kind == "meet":
            self._meet(stage, inputs, last)
        elif kind == "embed":
            self._embed(stage, inputs[0].array, last)
        elif kind in ("logits", "norm") and not self._ends:
            self._result = PassResult(self._step, -1, "", last.ready_s, last.compute_s, last.transfer_s)
            self._cursor = len(self._stages)
        elif kind == "logits":
            self._lm_head(stage, inputs[0].array, last)
        elif kind == "norm":
            self._norm(stage, inputs[0].array, last)
        elif kind == "vocab":
            self._vocab(stage, inputs[0].array, last)
        else:
            self._choose(stage, [value.array for value in inputs], last)

    def _embed(self, stage: Stage, ids: np.ndarray, last: Value) -> None:
        asked = _asked_by([embed_cost(self.store.shape, self._rows, self._pacer.model)])
        x, timing = self._pacer.run(lambda: self.store.embed(ids.tolist(), self._position), asked.counted, last.ready_s)
        self._finish(timing, 0, "embed", asked)
        self._send(stage, x, timing, last)

    def _lm_head(self, stage: Stage, x: Floats, last: Value) -> None:
        """Run the LM head. The pass is over."""
        asked = _asked_by([lm_head_cost(self.store.shape, self._pacer.model)])

        def choose() -> tuple[int, str]:
            logits = self.store.logits(x)
            token = choose_token(logits, self.sampling, self._position + self._rows)
            return token, logits_digest(logits)

        (token, digest), timing = self._pacer.run(choose, asked.counted, last.ready_s)
        self._finish(timing, stage.layer, "lm_head", asked)
        self._end(token, digest, timing, last)

    def _end(self, token: int, digest: str, timing: Timing, last: Value) -> None:
        compute = last.compute_s + timing.end_s - timing.start_s
        self._result = PassResult(self._step, token, digest, timing.end_s, compute, last.transfer_s)

    def _norm(self, stage: Stage, x: Floats, last: Value) -> None:
        """On the source: send the last row after the final norm to every shard of the LM head."""
        row, timing = self._pacer.run(lambda: self.store.final_row(x), [], last.ready_s)
        self._send(stage, row, timing, last)

    def _vocab(self, stage: Stage, row: Floats, last: Value) -> None:
        """Run this device's shards of the LM head, and send what each would choose."""
        asked = self._asked_of("vocab", len(stage.parts))
        choices, timing = self._pacer.run(lambda: self.store.choices(stage.parts, row), asked.counted, last.ready_s)
        self._finish(timing, stage.layer, stage.label, asked)
        self._send(stage, choices, timing, last)

    def _choose(self, stage: Stage, choices: list[Floats], last: Value) -> None:
        """On the source: take the best of all shards' choices. The pass is over."""
        (token, digest), timing = self._pacer.run(lambda: best_choice(stage.held, choices), [], last.ready_s)
        self._end(token, digest, timing, last)

    def _work(self, stage: Stage, x: Floats, last: Value) -> None:
        """Run this device's heads, or its shards of the FFN."""
        assert stage.block is not None
        layer, parts = stage.layer, stage.parts

        def compute() -> Floats:
            if stage.which == ATTENTION:
                return self.store.heads(layer, parts, x, self._position)
            return self.store.ffn_shards(layer, parts, x)

        asked = self._asked_of(stage.block, len(parts))
        out, timing = self._pacer.run(compute, asked.counted, last.ready_s)
        self._finish(timing, layer, stage.label, asked)
        self._send(stage, out, timing, last)

    def _meet(self, stage: Stage, inputs: list[Value], last: Value) -> None:
        """Run the end of a half: proj, a sum or a whole FFN; with an all-to-all exchange this device's own sum."""
        assert stage.block is not None
        layer, kind, held = stage.layer, stage.block, stage.held
        x, results = inputs[0].array, [value.array for value in inputs[1:]]

        def compute() -> Floats:
            if kind == "sum":
                return self.store.sum_up(layer, stage.which, held, results, x)
            if kind == "proj":
                return self.store.proj(layer, self._join(results, held), x)
            return self.store.ffn(layer, x)

        asked = self._asked_of(kind, 1)
        stays = stage.receivers == (self.device,)
        out, timing = self._pacer.run(compute, asked.counted, last.ready_s, stays)
        self._finish(timing, layer, stage.label, asked)
        self._send(stage, out, timing, last)

    def _asked_of(self, kind: Kind, count: int) -> Asked:
        """What this many blocks of a kind ask of the device in this pass."""
        length, rows = self._position + self._rows, self._rows
        if self._asked_for != (length, rows):
            self._asked_for, self._asked = (length, rows), {}
        found = self._asked.get((kind, count))
        if found is None:
            shape, partition, model = self.store.shape, self.store.partition, self._pacer.model
            found = _asked_by([block_cost(shape, Block(kind, 0), length, rows, partition, model)] * count)
            self._asked[kind, count] = found
        return found

    def _join(self, parts: list[Floats], groups: Sequence[tuple[int, ...]]) -> Floats:
        """Concatenate the heads' outputs by KV group: (rows, H·d), whichever devices they came from."""
        width = self.store.shape.queries_per_group * self.store.shape.head_dim
        pieces: dict[int, Floats] = {}
        for part, indices in zip(parts, groups, strict=True):
            for slot, group in enumerate(indices):
                pieces[group] = part[:, slot * width : (slot + 1) * width]
        return np.concatenate([pieces[group] for group in sorted(pieces)], axis=1)

    def _finish(self, timing: Timing, layer: int, label: str, asked: Asked) -> None:
        self.spans.append(
            Span(self._step, layer, "block", label, self.device, "", timing.start_s, timing.end_s,
                 asked.read_bytes, asked.flops, timing.overrun, timing.due_s)
        )  # fmt: skip

    def _send(self, stage: Stage, out: Floats, timing: Timing, last: Value) -> None:
        """Send a result in the plan's order: by reference to this device, by message to others."""
        compute, kind, layer = last.compute_s + timing.end_s - timing.start_s, stage.sent, stage.sent_layer
        if stage.last_row:
            out = out[-1:]
        payload = b""
        for target in stage.receivers:
            if target == self.device:
                value = Value(out, timing.end_s, compute, last.transfer_s)
                self._values[self._step][kind, layer, self.device] = value
                continue
            header = Activation(
                "", 0.0, 0.0, 0.0, self._plan().epoch, self._step, layer, kind, self._position, out.shape[0],
                compute, last.transfer_s,
            )  # fmt: skip
            payload = payload or self._packed(kind, out)
            self._outbox.send(target, header, payload)


_ready_s = operator.attrgetter("ready_s")


def _asked_by(costs: Sequence[Cost]) -> Asked:
    read_bytes, flops = sum(cost.read_bytes for cost in costs), sum(cost.flops for cost in costs)
    return Asked([cost.counted for cost in costs], read_bytes, flops)
