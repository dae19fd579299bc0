"""One pass of some rows through all layers as the cost model has it: each operation, and each message.

A half-layer begins when all before it has ended, so a pass is a list of stages with their spans. Tests hold the stages'
sum to the model's latency.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import Any, NamedTuple

from testbed.placement.blocks import ATTENTION, FFN, Block
from testbed.placement.cost.model import CostModel
from testbed.placement.latency import message_bits
from testbed.placement.observation import Path as LinkPath
from testbed.placement.plan import VOCAB, HalfKind, HalfPlan, Plan, halves_of, work_payload, x_payload
from testbed.wire import OUTAGE_BPS

INPUTS, RESULTS = ("x", "y"), ("o", "p")  # kinds of messages, by half, as in the table of spans
Row = dict[str, Any]


class PassStage(NamedTuple):
    """Part of a pass from the moment at which all before it has ended; it ends on the device `ends_at`."""

    start_s: float
    end_s: float
    ends_at: str
    spans: list[Row]
    sent: list[Row]  # the messages among the spans, in the order in which they were sent


class ModelledPass:
    """One pass of some rows through all layers, as the cost model has it."""

    def __init__(self, model: CostModel, plan: Plan, length: int, rows: int, last: bool, start_s: float) -> None:
        self._model, self._plan, self._length, self._rows = model, plan, length, rows
        self._now, self._partition = start_s, model.observation.partition
        self.stages: list[PassStage] = []
        embed, lm_head = self._source_seconds()
        self._alone("embed", plan.source, embed)
        for number, layer in enumerate(plan.layers):
            for which, half in ((ATTENTION, layer.attention), (FFN, layer.ffn)):
                holder = plan.holder(number) if which == ATTENTION else layer.attention.target
                self._half(holder, half, halves_of(self._partition)[which], number, which)
        depth = len(plan.layers)
        if plan.holder(depth) != plan.source:
            self._spread(plan.holder(depth), [plan.source], depth, 1)
        if last and plan.vocab is None:
            self._alone("lm_head", plan.source, lm_head)
        elif last and plan.vocab is not None:
            self._hub(plan.source, plan.vocab, VOCAB, depth, ("v", "c"), "")

    def _source_seconds(self) -> tuple[float, float]:
        """Seconds of the embedding, and of a whole LM head."""
        source = self._model.source
        embed = self._model.source_seconds(source, self._rows, lm_head=False)
        return embed, self._model.source_seconds(source, self._rows) - embed

    def _half(self, holder: str, half: HalfPlan, kind: HalfKind, layer: int, which: int) -> None:
        meet = "" if kind.target is None else str(Block(kind.target, layer, which if kind.target == "sum" else 0))
        if self._partition.hub:
            self._hub(holder, half, kind, layer, (INPUTS[which], RESULTS[which]), meet)
            return
        if half.x_order:
            self._spread(half.target, half.x_order, layer, self._rows)
        self._together(half, kind, layer, RESULTS[which], meet)

    def _alone(self, label: str, device: str, seconds: float) -> None:
        """One operation with nothing beside it."""
        run = self._messages()
        self._end(run, run.block(label, device, self._now, seconds), device)

    def _spread(self, holder: str, order: Sequence[str], layer: int, rows: int) -> None:
        """Bring x to the devices of `order`, and wait for the last one."""
        run, x = self._messages(), x_payload(self._model.shape, rows)
        there: dict[str, float] = {}

        def arrived(device: str) -> Callable[[float], None]:
            return lambda at: there.__setitem__(device, at)

        for device in order:
            run.send(f"x({layer})", holder, device, x, self._model.path(holder, device, x), self._now, arrived(device))
        run.deliver()
        latest = max(there, key=lambda device: there[device])
        self._end(run, there[latest], latest)

    def _work(self, half: HalfPlan, kind: HalfKind, layer: int, device: str) -> tuple[str, float, float]:
        """(label, seconds, payload of the result) of what a device works on in a half."""
        parts = half.work[device]
        assert kind.work is not None
        each = self._model.seconds(kind.work, self._length, self._rows)[self._model.index[device]]
        label = f"{kind.work}({layer},{','.join(map(str, parts))})"
        return label, each * len(parts), work_payload(self._model.shape, kind, parts, self._rows)

    def _hub(self, holder: str, half: HalfPlan, kind: HalfKind, layer: int, names: tuple[str, str], meet: str) -> None:
        """A half whose results meet at one device. Paths are asked for in the model's order, as it may draw them."""
        run, target = self._messages(), half.target
        there: list[float] = [self._now]
        x = x_payload(self._model.shape, 1 if kind.work == "vocab" else self._rows)
        working = {device: self._work(half, kind, layer, device) for device in half.work}
        sent = [(holder, device, x) for device in half.x_order]
        sent += [(device, target, payload) for device, (_, _, payload) in working.items() if device != target]
        paths = {(one, other): self._model.path(one, other, payload) for one, other, payload in sent}

        def begin(device: str) -> Callable[[float], None]:
            def work(at: float) -> None:
                if device == target:
                    there.append(at)
                if device not in working:
                    return
                label, seconds, payload = working[device]
                end = run.block(label, device, at, seconds)
                if device == target:
                    there.append(end)
                else:
                    path = paths[device, target]
                    run.send(f"{names[1]}({layer})", device, target, payload, path, end, there.append)

            return work

        for device in half.x_order:
            run.send(f"{names[0]}({layer})", holder, device, x, paths[holder, device], self._now, begin(device))
        begin(holder)(self._now)
        run.deliver()
        end = max(there)
        if kind.target is not None:
            seconds = self._model.seconds(kind.target, self._length, self._rows)[self._model.index[target]]
            end = run.block(meet, target, end, seconds)
        self._end(run, end, target)

    def _together(self, half: HalfPlan, kind: HalfKind, layer: int, result: str, meet: str) -> None:
        """A half whose results every device adds up for itself."""
        run = self._messages()
        there: dict[str, list[float]] = {target: [self._now] for target in half.targets}
        for device in half.work:
            label, seconds, payload = self._work(half, kind, layer, device)
            end = run.block(label, device, self._now, seconds)
            for target in half.receivers(device):
                if target == device:
                    there[target].append(end)
                else:
                    path = self._model.path(device, target, payload)
                    run.send(f"{result}({layer})", device, target, payload, path, end, there[target].append)
        run.deliver()
        adding = self._model.seconds("sum", self._length, self._rows)
        ends = {
            target: run.block(meet, target, max(there[target]), adding[self._model.index[target]])
            for target in half.targets
        }
        latest = max(ends, key=lambda target: ends[target])
        self._end(run, ends[latest], latest)

    def _messages(self) -> _Messages:
        return _Messages(self._now, self._model.observation.hop_overhead_s)

    def _end(self, run: _Messages, end_s: float, ends_at: str) -> None:
        self.stages.append(PassStage(self._now, end_s, ends_at, run.spans, run.sent))
        self._now = end_s


class _Messages:
    """Operations and messages of one stage. Messages share links as `latency.half_layer_latency` says."""

    def __init__(self, start_s: float, hop_overhead_s: float) -> None:
        self.spans: list[Row] = []
        self.sent: list[Row] = []
        self._start_s, self._hop_s = start_s, hop_overhead_s
        self._turn = itertools.count()
        self._coming: list[tuple[float, int, int, float, LinkPath, Row, Callable[[float], None]]] = []

    def block(self, label: str, device: str, start_s: float, seconds: float) -> float:
        """Add an operation; returns when it ends."""
        self.spans.append(_span("block", label, device, None, start_s, start_s + seconds, None))
        return start_s + seconds

    def send(
        self, label: str, sender: str, receiver: str, payload: float, path: LinkPath, at_s: float,
        then: Callable[[float], None],
    ) -> None:  # fmt: skip
        """Send a message at this time; `then` is called with the time at which it can be used."""
        row = _span("transfer", label, sender, receiver, at_s, at_s, payload)
        self.sent.append(row)
        heappush(self._coming, (at_s - self._start_s, next(self._turn), 0, math.inf, path, row, then))

    def deliver(self) -> None:
        """Let all messages arrive, and those that are sent meanwhile."""
        free: dict[Any, float] = {}
        while self._coming:
            when, turn, passed, rate, path, row, then = heappop(self._coming)
            hop, rate_bps, delay = path[passed]
            rate = min(rate, max(rate_bps, OUTAGE_BPS))
            start = max(when, free.get(hop, 0.0))
            free[hop] = through = start + message_bits(row["bytes"]) / rate
            if passed + 1 < len(path):
                heappush(self._coming, (start + delay, turn, passed + 1, rate, path, row, then))
                continue
            row["end_s"] = self._start_s + through + delay + self._hop_s
            self.spans.append(row)
            then(row["end_s"])


def _span(
    kind: str, label: str, device: str, peer: str | None, start_s: float, end_s: float, size: float | None
) -> Row:
    return {
        "kind": kind, "block": label, "device": device, "peer": peer, "start_s": start_s, "end_s": end_s,
        "bytes": size, "overrun": False, "due_s": None,
    }  # fmt: skip
