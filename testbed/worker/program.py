"""A worker's part of a forward pass: its stages in layer order, each run as soon as its inputs are there.

A stage that waits never blocks one that could run before it in the order of layers, because every device
takes its stages in the order a token meets them; so no placement can deadlock. On the source the pass begins
with the embedding and ends with the LM head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from testbed.decoder.memory import aligned_copy
from testbed.decoder.reference import logits_digest
from testbed.decoder.store import BlockStore
from testbed.errors import RunFailed
from testbed.placement.blocks import (
    Block,
    block_flops,
    block_read_bytes,
    embed_read_bytes,
    lm_head_flops,
    lm_head_read_bytes,
)
from testbed.placement.plan import Plan
from testbed.transport.data import Activation
from testbed.transport.messages import Span
from testbed.worker.outbox import Outbox
from testbed.worker.pacing import Pacer, Timing

StageKind = Literal["embed", "heads", "proj", "ffn", "logits"]
Key = tuple[str, int, str]  # message kind, layer, sender


@dataclass(frozen=True)
class Value:
    """A tensor that a stage waits for, and what its critical path has cost so far."""

    tensor: torch.Tensor
    ready_s: float
    compute_s: float
    transfer_s: float


@dataclass(frozen=True)
class Pass:
    """One forward pass: `step` counts passes of the run, prefill chunks included."""

    step: int
    position: int
    ids: tuple[int, ...]  # known on the source only


@dataclass(frozen=True)
class PassResult:
    """What the source has at the end of a pass."""

    step: int
    token_id: int
    logits_digest: str
    end_s: float
    compute_s: float
    transfer_s: float


class Program:
    """Executes one device's stages of a plan, pass after pass."""

    def __init__(self, device: str, store: BlockStore, pacer: Pacer, outbox: Outbox) -> None:
        self.device = device
        self.store = store
        self.plan: Plan | None = None
        self.spans: list[Span] = []
        self._pacer, self._outbox = pacer, outbox
        self._stages: list[tuple[StageKind, int]] = []
        self._cursor = 0
        self._step = 0
        self._position = 0
        self._rows = 0
        self._values: dict[tuple[int, Key], Value] = {}
        self._result: PassResult | None = None

    # --- plan ------------------------------------------------------------------------------------------

    def switch(self, plan: Plan) -> None:
        """Run this plan from the next pass on; raises RunFailed in the middle of one."""
        if self._cursor or self._values:
            raise RunFailed(f"device {self.device}: epoch {plan.epoch} was committed in the middle of a pass")
        self.plan = plan
        stages: list[tuple[StageKind, int]] = [("embed", 0)] if plan.source == self.device else []
        for number, layer in enumerate(plan.layers):
            if self.device in layer.heads:
                stages.append(("heads", number))
            if layer.proj == self.device:
                stages.append(("proj", number))
            if layer.ffn == self.device:
                stages.append(("ffn", number))
        if plan.source == self.device:
            stages.append(("logits", len(plan.layers)))
        self._stages = stages

    def receivers(self) -> list[str]:
        """The devices that this one sends to under the plan, in index order of first use."""
        plan = self._plan()
        found: dict[str, None] = {}
        for number, layer in enumerate(plan.layers):
            if plan.holder(number) == self.device:
                found |= dict.fromkeys(layer.x_order)
            if self.device in layer.heads:
                found[layer.proj] = None
            if layer.proj == self.device:
                found[layer.ffn] = None
        if plan.holder(len(plan.layers)) == self.device:
            found[plan.source] = None
        found.pop(self.device, None)
        return list(found)

    # --- input -----------------------------------------------------------------------------------------

    def begin(self, new: Pass, now_s: float) -> None:
        """On the source: start a pass by making its token ids available to the embedding."""
        self._step, self._position, self._rows = new.step, new.position, len(new.ids)
        ids = torch.tensor(new.ids)
        self._values[new.step, ("ids", 0, self.device)] = Value(ids, now_s, 0.0, 0.0)

    def accept(self, header: Activation, payload: bytes, due_s: float) -> None:
        """Store an activation; its transfer took until it was due here, whenever this device finds time for it."""
        plan = self._plan()
        if header.epoch != plan.epoch:
            raise RunFailed(
                f"device {self.device}: a message of epoch {header.epoch} from {header.sender} in epoch {plan.epoch}"
            )
        columns = len(payload) // (header.rows * self.store.shape.activation_bytes)
        tensor = aligned_copy(payload, (header.rows, columns))
        value = Value(tensor, due_s, header.compute_s, header.transfer_s + due_s - header.sent_s)
        self._values[header.step, (header.kind, header.layer, header.sender)] = value
        if header.step > self._step or not self._rows:
            self._step, self._position, self._rows = header.step, header.position, header.rows
        size = float(len(payload))
        label = f"{header.kind}({header.layer})"
        self.spans.append(
            Span(header.step, header.layer, "transfer", label, header.sender, self.device,
                 header.sent_s, due_s, size, 0.0, False, 0.0)
        )  # fmt: skip

    # --- running ---------------------------------------------------------------------------------------

    def advance(self) -> PassResult | None:
        """Run every stage whose inputs are there; the source's result when the pass is over."""
        while self._cursor < len(self._stages):
            kind, layer = self._stages[self._cursor]
            inputs = self._inputs(kind, layer)
            if inputs is None:
                return None
            self._cursor += 1
            self._run(kind, layer, inputs)
        if self._stages and self._rows and self._cursor == len(self._stages):
            self._cursor, self._rows = 0, 0
            self._values = {key: value for key, value in self._values.items() if key[0] > self._step}
        result, self._result = self._result, None
        return result

    def _plan(self) -> Plan:
        if self.plan is None:
            raise RunFailed(f"device {self.device} was given work before a plan")
        return self.plan

    def _inputs(self, kind: StageKind, layer: int) -> list[Value] | None:
        """The stage's inputs in a fixed order, or None while one is missing."""
        plan, step = self._plan(), self._step
        x_key: Key = ("x", layer, plan.holder(layer))
        wanted: list[Key]
        if kind == "embed":
            wanted = [("ids", 0, self.device)]
        elif kind == "proj":
            wanted = [x_key, *(("o", layer, device) for device in plan.layers[layer].heads)]
        elif kind == "ffn":
            wanted = [("y", layer, plan.layers[layer].proj)]
        else:
            wanted = [x_key]
        values = [self._values.get((step, key)) for key in wanted]
        return [value for value in values if value is not None] if all(values) else None

    def _run(self, kind: StageKind, layer: int, inputs: list[Value]) -> None:
        plan, shape, rows = self._plan(), self.store.shape, self._rows
        length = self._position + rows
        last = max(inputs, key=lambda value: value.ready_s)
        x = inputs[0].tensor
        if kind == "embed":
            ids = tuple(int(i) for i in x)
            out, timing = self._pacer.run(
                lambda: self.store.embed(ids, self._position), [(0.0, embed_read_bytes(shape, rows))], last.ready_s
            )
            self._finish(timing, layer, "embed", [(0.0, embed_read_bytes(shape, rows))])
            self._send_x(0, out, timing, last)
            return
        if kind == "logits":
            costs = [(lm_head_flops(shape), lm_head_read_bytes(shape))]

            def choose() -> tuple[int, str]:
                logits = self.store.logits(x)
                return int(torch.argmax(logits)), logits_digest(logits)

            (token, digest), timing = self._pacer.run(choose, costs, last.ready_s)
            self._finish(timing, layer, "lm_head", costs)
            compute = last.compute_s + timing.end_s - timing.start_s
            self._result = PassResult(self._step, token, digest, timing.end_s, compute, last.transfer_s)
            return
        this = plan.layers[layer]
        if kind == "heads":
            groups = this.heads[self.device]
            costs = [self._cost(Block("head", layer, group), length, rows) for group in groups]
            out, timing = self._pacer.run(
                lambda: self.store.heads(layer, groups, x, self._position), costs, last.ready_s
            )
            self._finish(timing, layer, f"head({layer},{','.join(map(str, groups))})", costs)
            self._send("o", layer, [this.proj], out, timing, last)
        elif kind == "proj":
            attended = self._join([value.tensor for value in inputs[1:]], list(this.heads.values()))
            costs = [self._cost(Block("proj", layer), length, rows)]
            out, timing = self._pacer.run(lambda: self.store.proj(layer, attended, x), costs, last.ready_s)
            self._finish(timing, layer, f"proj({layer})", costs)
            self._send("y", layer, [this.ffn], out, timing, last)
        else:
            costs = [self._cost(Block("ffn", layer), length, rows)]
            out, timing = self._pacer.run(lambda: self.store.ffn(layer, x), costs, last.ready_s)
            self._finish(timing, layer, f"ffn({layer})", costs)
            self._send_x(layer + 1, out, timing, last)

    def _cost(self, block: Block, length: int, rows: int) -> tuple[float, float]:
        shape = self.store.shape
        return block_flops(shape, block, length, rows), block_read_bytes(shape, block, length)

    def _join(self, parts: list[torch.Tensor], groups: list[tuple[int, ...]]) -> torch.Tensor:
        """Concatenate heads' outputs by KV group: (rows, H·d), whatever devices they came from."""
        width = self.store.shape.queries_per_group * self.store.shape.head_dim
        pieces: dict[int, torch.Tensor] = {}
        for part, indices in zip(parts, groups, strict=True):
            for slot, group in enumerate(indices):
                pieces[group] = part[:, slot * width : (slot + 1) * width]
        return torch.cat([pieces[group] for group in sorted(pieces)], dim=1)

    def _finish(self, timing: Timing, layer: int, label: str, costs: list[tuple[float, float]]) -> None:
        self.spans.append(
            Span(self._step, layer, "block", label, self.device, "", timing.start_s, timing.end_s,
                 sum(cost[1] for cost in costs), sum(cost[0] for cost in costs), timing.overrun, timing.due_s)
        )  # fmt: skip

    def _send_x(self, layer: int, x: torch.Tensor, timing: Timing, last: Value) -> None:
        plan = self._plan()
        if layer == len(plan.layers):
            self._send("x", layer, [plan.source], x[-1:].clone(), timing, last)
            return
        here = plan.layers[layer]
        local = self.device in here.heads or here.proj == self.device
        self._send("x", layer, [*here.x_order, *([self.device] if local else [])], x, timing, last)

    def _send(
        self, kind: str, layer: int, targets: list[str], out: torch.Tensor, timing: Timing, last: Value
    ) -> None:
        """Hand a result over by reference to this device, by message to others, in the plan's order."""
        compute = last.compute_s + timing.end_s - timing.start_s
        for target in targets:
            if target == self.device:
                value = Value(out, timing.end_s, compute, last.transfer_s)
                self._values[self._step, (kind, layer, self.device)] = value
                continue
            header = Activation(
                "", 0.0, 0.0, 0.0, self._plan().epoch, self._step, layer, kind, self._position, out.shape[0],
                compute, last.transfer_s,
            )  # fmt: skip
            self._outbox.send(target, header, memoryview(out.contiguous().view(-1).numpy()).cast("B"))


