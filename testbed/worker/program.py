"""A worker's part of a forward pass: its stages in the order of layers, each run as soon as its inputs are there.

Every device takes its stages in the order in which a token meets them, so a stage that waits never blocks one before
it, and no placement can deadlock. On the source a pass begins with the embedding and ends with the LM head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from testbed.decoder import kernels
from testbed.decoder.choice import best_choice, choose_token, logits_digest
from testbed.decoder.kernels import Floats
from testbed.decoder.store import BlockStore
from testbed.errors import RunFailed
from testbed.placement.blocks import ATTENTION, FFN, Block
from testbed.placement.operation import Cost, block_cost, embed_cost, lm_head_cost
from testbed.placement.plan import HalfPlan, Plan, halves_of
from testbed.transport.data import Activation
from testbed.transport.messages import Span
from testbed.words.sampling import Sampling
from testbed.worker.outbox import Outbox
from testbed.worker.pacing import Pacer, Timing

# A whole LM head is "logits" on the source. One in shards is "norm" there, "vocab" at the shards, then "choose" there.
StageKind = Literal["embed", "work", "meet", "logits", "norm", "vocab", "choose"]
Stage = tuple[StageKind, int, int]  # (what, layer, which half of it)
Key = tuple[str, int, str]  # (message kind, layer, sender)
INPUT = ("x", "y")  # message kind of a half's input, by half
RESULT = ("o", "p")  # message kind of what its heads or shards send to where they meet, by half
ROW, CHOICE = "v", "c"  # to the shards of the LM head, and back from them


@dataclass(frozen=True)
class Value:
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


def _counted(costs: Sequence[Cost]) -> list[tuple[float, float]]:
    return [cost.counted for cost in costs]


class Program:
    """Executes one device's stages of a plan, pass after pass."""

    def __init__(self, device: str, store: BlockStore, pacer: Pacer, outbox: Outbox) -> None:
        self.device = device
        self.store = store
        self.plan: Plan | None = None
        self.sampling: Sampling | None = None
        self.spans: list[Span] = []
        self._pacer, self._outbox = pacer, outbox
        self._halves = halves_of(store.partition)
        self._stages: list[Stage] = []
        self._cursor = 0
        self._step = 0
        self._position = 0
        self._rows = 0
        self._ends = True
        self._values: dict[tuple[int, Key], Value] = {}
        self._result: PassResult | None = None

    # --- plan ------------------------------------------------------------------------------------------

    def switch(self, plan: Plan) -> None:
        """Run this plan from the next pass on; raises RunFailed in the middle of a pass."""
        if self._cursor or self._values:
            raise RunFailed(f"device {self.device}: epoch {plan.epoch} was committed in the middle of a pass")
        self.plan = plan
        stages: list[Stage] = [("embed", 0, ATTENTION)] if plan.source == self.device else []
        for number, layer in enumerate(plan.layers):
            for which, half in enumerate((layer.attention, layer.ffn)):
                if self.device in half.work:
                    stages.append(("work", number, which))
                if self.device in half.targets:
                    stages.append(("meet", number, which))
        end = len(plan.layers)
        if plan.source == self.device:
            stages.append(("logits" if plan.vocab is None else "norm", end, ATTENTION))
        if plan.vocab is not None and self.device in plan.vocab.work:
            stages.append(("vocab", end, ATTENTION))
        if plan.vocab is not None and plan.source == self.device:
            stages.append(("choose", end, ATTENTION))
        self._stages = stages

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
        self._values[new.step, ("ids", 0, self.device)] = Value(ids, now_s, 0.0, 0.0)

    def accept(self, header: Activation, payload: memoryview | bytes, due_s: float) -> None:
        """Store an activation. Its transfer ends when it is due here, however late this device takes it."""
        plan = self._plan()
        if header.epoch != plan.epoch:
            raise RunFailed(
                f"device {self.device}: a message of epoch {header.epoch} from {header.sender} in epoch {plan.epoch}"
            )
        value = Value(
            self._unpacked(header, payload), due_s, header.compute_s, header.transfer_s + due_s - header.sent_s
        )
        self._values[header.step, (header.kind, header.layer, header.sender)] = value
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
            stage = self._stages[self._cursor]
            inputs = self._inputs(stage)
            if inputs is None:
                return None
            self._cursor += 1
            self._run(stage, inputs)
            self._let_go(stage)
        if self._stages and self._rows and self._cursor == len(self._stages):
            self._cursor, self._rows = 0, 0
            self._forget(self._step)
        result, self._result = self._result, None
        return result

    def _let_go(self, stage: Stage) -> None:
        """Drop the inputs that no later stage needs, so that a pass holds the values of one half-layer at most."""
        kind, layer, which = stage
        if kind == "work" and self.device in self._half(layer, which).targets:
            return  # x is needed again where the results meet
        for key in self._wanted(stage):
            self._values.pop((self._step, key), None)

    def _forget(self, step: int) -> None:
        self._values = {key: value for key, value in self._values.items() if key[0] > step}

    def _plan(self) -> Plan:
        if self.plan is None:
            raise RunFailed(f"device {self.device} was given work before a plan")
        return self.plan

    def _inputs(self, stage: Stage) -> list[Value] | None:
        """The stage's inputs in a fixed order, or None while one is missing."""
        values = [self._values.get((self._step, key)) for key in self._wanted(stage)]
        return [value for value in values if value is not None] if all(values) else None

    def _wanted(self, stage: Stage) -> list[Key]:
        """The keys of the stage's inputs, in a fixed order."""
        kind, layer, which = stage
        plan = self._plan()
        wanted: list[Key] = [(INPUT[which], layer, self._holder(layer, which))]
        if kind == "embed":
            wanted = [("ids", 0, self.device)]
        elif kind == "vocab":
            wanted = [(ROW, layer, plan.source)]
        elif kind == "choose" and plan.vocab is not None:
            wanted = [(CHOICE, layer, device) for device in plan.vocab.work]
        elif kind == "meet":
            wanted += [(RESULT[which], layer, device) for device in self._half(layer, which).work]
        return wanted

    def _holder(self, layer: int, which: int) -> str:
        """The device that a half's input comes from: this one, if it summed the half before."""
        if layer == 0 and which == ATTENTION:
            return self._plan().source
        before = self._half(layer, ATTENTION) if which == FFN else self._half(layer - 1, FFN)
        return self.device if self.device in before.targets else before.target

    def _half(self, layer: int, which: int) -> HalfPlan:
        planned = self._plan().layers[layer]
        return planned.attention if which == ATTENTION else planned.ffn

    def _run(self, stage: Stage, inputs: list[Value]) -> None:
        kind, layer, which = stage
        last = max(inputs, key=lambda value: value.ready_s)
        if kind == "embed":
            self._embed(inputs[0].array, last)
        elif kind in ("logits", "norm") and not self._ends:
            self._result = PassResult(self._step, -1, "", last.ready_s, last.compute_s, last.transfer_s)
            self._cursor = len(self._stages)
        elif kind == "logits":
            self._lm_head(inputs[0].array, layer, last)
        elif kind == "norm":
            self._norm(inputs[0].array, layer, last)
        elif kind == "vocab":
            self._vocab(inputs[0].array, layer, last)
        elif kind == "choose":
            self._choose([value.array for value in inputs], last)
        elif kind == "work":
            self._work(layer, which, inputs[0].array, last)
        else:
            self._meet(layer, which, inputs, last)

    def _embed(self, ids: np.ndarray, last: Value) -> None:
        costs = [embed_cost(self.store.shape, self._rows, self._pacer.model)]
        x, timing = self._pacer.run(
            lambda: self.store.embed(ids.tolist(), self._position), _counted(costs), last.ready_s
        )
        self._finish(timing, 0, "embed", costs)
        self._send_on(0, ATTENTION, x, timing, last)

    def _lm_head(self, x: Floats, layer: int, last: Value) -> None:
        """Run the LM head. The pass is over."""
        costs = [lm_head_cost(self.store.shape, self._pacer.model)]

        def choose() -> tuple[int, str]:
            logits = self.store.logits(x)
            token = choose_token(logits, self.sampling, self._position + self._rows)
            return token, logits_digest(logits)

        (token, digest), timing = self._pacer.run(choose, _counted(costs), last.ready_s)
        self._finish(timing, layer, "lm_head", costs)
        self._end(token, digest, timing, last)

    def _end(self, token: int, digest: str, timing: Timing, last: Value) -> None:
        compute = last.compute_s + timing.end_s - timing.start_s
        self._result = PassResult(self._step, token, digest, timing.end_s, compute, last.transfer_s)

    def _norm(self, x: Floats, layer: int, last: Value) -> None:
        """On the source: send the last row after the final norm to every shard of the LM head."""
        vocab = self._vocab_plan()
        row, timing = self._pacer.run(lambda: self.store.final_row(x), [], last.ready_s)
        local = [self.device] if self.device in vocab.work else []
        self._send(ROW, layer, [*vocab.x_order, *local], row, timing, last)

    def _vocab(self, row: Floats, layer: int, last: Value) -> None:
        """Run this device's shards of the LM head, and send what each would choose."""
        plan, shards = self._plan(), self._vocab_plan().work[self.device]
        costs = [self._cost(Block("vocab", 0, shard)) for shard in shards]
        choices, timing = self._pacer.run(lambda: self.store.choices(shards, row), _counted(costs), last.ready_s)
        self._finish(timing, layer, f"vocab({','.join(map(str, shards))})", costs)
        self._send(CHOICE, layer, [plan.source], choices, timing, last)

    def _choose(self, choices: list[Floats], last: Value) -> None:
        """On the source: take the best of all shards' choices. The pass is over."""
        held = list(self._vocab_plan().work.values())
        (token, digest), timing = self._pacer.run(lambda: best_choice(held, choices), [], last.ready_s)
        self._end(token, digest, timing, last)

    def _vocab_plan(self) -> HalfPlan:
        vocab = self._plan().vocab
        assert vocab is not None
        return vocab

    def _work(self, layer: int, which: int, x: Floats, last: Value) -> None:
        """Run this device's heads, or its shards of the FFN."""
        half, kind = self._half(layer, which), self._halves[which].work
        assert kind is not None
        parts = half.work[self.device]

        def compute() -> Floats:
            if which == ATTENTION:
                return self.store.heads(layer, parts, x, self._position)
            return self.store.ffn_shards(layer, parts, x)

        costs = [self._cost(Block(kind, layer, part)) for part in parts]
        out, timing = self._pacer.run(compute, _counted(costs), last.ready_s)
        self._finish(timing, layer, f"{kind}({layer},{','.join(map(str, parts))})", costs)
        self._send(RESULT[which], layer, half.receivers(self.device), out, timing, last)

    def _meet(self, layer: int, which: int, inputs: list[Value], last: Value) -> None:
        """Run the end of a half: proj, a sum or a whole FFN; with an all-to-all exchange this device's own sum."""
        half, kind = self._half(layer, which), self._halves[which].target
        assert kind is not None
        block = Block(kind, layer, which if kind == "sum" else 0)
        x, results = inputs[0].array, [value.array for value in inputs[1:]]

        def compute() -> Floats:
            if kind == "sum":
                return self.store.sum_up(layer, which, list(half.work.values()), results, x)
            if kind == "proj":
                return self.store.proj(layer, self._join(results, list(half.work.values())), x)
            return self.store.ffn(layer, x)

        costs = [self._cost(block)]
        after = (layer, FFN) if which == ATTENTION else (layer + 1, ATTENTION)
        stays = self._onward(*after) == [self.device]
        out, timing = self._pacer.run(compute, _counted(costs), last.ready_s, stays)
        self._finish(timing, layer, str(block), costs)
        self._send_on(*after, out, timing, last)

    def _cost(self, block: Block) -> Cost:
        shape, partition, length = self.store.shape, self.store.partition, self._position + self._rows
        return block_cost(shape, block, length, self._rows, partition, self._pacer.model)

    def _join(self, parts: list[Floats], groups: list[tuple[int, ...]]) -> Floats:
        """Concatenate the heads' outputs by KV group: (rows, H·d), whichever devices they came from."""
        width = self.store.shape.queries_per_group * self.store.shape.head_dim
        pieces: dict[int, Floats] = {}
        for part, indices in zip(parts, groups, strict=True):
            for slot, group in enumerate(indices):
                pieces[group] = part[:, slot * width : (slot + 1) * width]
        return np.concatenate([pieces[group] for group in sorted(pieces)], axis=1)

    def _finish(self, timing: Timing, layer: int, label: str, costs: Sequence[Cost]) -> None:
        read_bytes, flops = sum(cost.read_bytes for cost in costs), sum(cost.flops for cost in costs)
        self.spans.append(
            Span(self._step, layer, "block", label, self.device, "", timing.start_s, timing.end_s,
                 read_bytes, flops, timing.overrun, timing.due_s)
        )  # fmt: skip

    def _send_on(self, layer: int, which: int, x: Floats, timing: Timing, last: Value) -> None:
        """Send the next half's input to all devices that need it; after the last layer, its last row to the source."""
        end = layer == len(self._plan().layers)
        self._send(INPUT[which], layer, self._onward(layer, which), x[-1:] if end else x, timing, last)

    def _onward(self, layer: int, which: int) -> list[str]:
        """The devices that this one sends a half's input to, itself included; after the last layer the source."""
        plan = self._plan()
        if layer == len(plan.layers):
            return [plan.source]
        half = self._half(layer, which)
        local = self.device in half.work or self.device in half.targets
        return [*half.x_order, *([self.device] if local else [])]

    def _send(self, kind: str, layer: int, targets: Sequence[str], out: Floats, timing: Timing, last: Value) -> None:
        """Send a result in the plan's order: by reference to this device, by message to others."""
        compute = last.compute_s + timing.end_s - timing.start_s
        payload = b""
        for target in targets:
            if target == self.device:
                value = Value(out, timing.end_s, compute, last.transfer_s)
                self._values[self._step, (kind, layer, self.device)] = value
                continue
            header = Activation(
                "", 0.0, 0.0, 0.0, self._plan().epoch, self._step, layer, kind, self._position, out.shape[0],
                compute, last.transfer_s,
            )  # fmt: skip
            payload = payload or self._packed(kind, out)
            self._outbox.send(target, header, payload)
