"""A device's part of a route plan as stages in the order in which a token meets them, made once per plan.

A stage says what it waits for, what it computes and to whom its result goes, so that nothing of it is looked up while
a token passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from testbed.placement.blocks import ATTENTION, FFN, Block, Kind, Partition
from testbed.placement.plan import HalfPlan, Plan, halves_of

# A whole LM head is "logits" on the source. One in shards is "norm" there, "vocab" at the shards, then "choose" there.
StageKind = Literal["embed", "work", "meet", "logits", "norm", "vocab", "choose"]
Key = tuple[str, int, str]  # (message kind, layer, sender)
INPUT = ("x", "y")  # message kind of a half's input, by half
RESULT = ("o", "p")  # message kind of what its heads or shards send to where they meet, by half
IDS = "ids"  # what a pass begins with on the source
ROW, CHOICE = "v", "c"  # to the shards of the LM head, and back from them


@dataclass(frozen=True)
class Stage:
    """One operation of a device for one half of a layer, or for the LM head."""

    kind: StageKind
    layer: int
    which: int  # half of the layer
    wanted: tuple[Key, ...]  # the inputs, in a fixed order
    spent: tuple[Key, ...]  # those that no later stage needs
    sent: str = ""  # message kind of the result
    sent_layer: int = 0
    receivers: tuple[str, ...] = ()  # in the order of sending; this device is among them if it goes on with the result
    last_row: bool = False  # whether only the result's last row is sent
    block: Kind | None = None  # that it computes
    parts: tuple[int, ...] = ()  # numbers of this device's heads or shards
    held: tuple[tuple[int, ...], ...] = ()  # the same of every device whose results meet, in the order of `wanted`
    label: str = ""


class StageMaker:
    """Makes the stages of one device under a plan."""

    def __init__(self, device: str, plan: Plan, partition: Partition) -> None:
        self._device, self._plan = device, plan
        self._kinds = halves_of(partition)

    def stages(self) -> list[Stage]:
        """All stages."""
        plan, end = self._plan, len(self._plan.layers)
        source, found = plan.source == self._device, []
        if source:
            ids = ((IDS, 0, self._device),)
            found.append(Stage("embed", 0, ATTENTION, ids, ids, *self._onward(0, ATTENTION)))
        for layer in range(end):
            for which in (ATTENTION, FFN):
                half = self._half(layer, which)
                if self._device in half.work:
                    found.append(self._work(layer, which, half))
                if self._device in half.targets:
                    found.append(self._meet(layer, which, half))
        if source:
            x = ((INPUT[ATTENTION], end, self._holder(end, ATTENTION)),)
            if plan.vocab is None:
                found.append(Stage("logits", end, ATTENTION, x, x))
            else:
                local = (self._device,) if self._device in plan.vocab.work else ()
                found.append(Stage("norm", end, ATTENTION, x, x, ROW, end, (*plan.vocab.x_order, *local)))
        if plan.vocab is not None:
            found += self._vocab(plan.vocab, end)
        return found

    def _work(self, layer: int, which: int, half: HalfPlan) -> Stage:
        kind, parts = self._kinds[which].work, half.work[self._device]
        wanted = (self._input(layer, which),)
        spent = () if self._device in half.targets else wanted  # x is needed again where the results meet
        return Stage(
            "work", layer, which, wanted, spent, RESULT[which], layer, half.receivers(self._device), False,
            kind, parts, (), f"{kind}({layer},{_joined(parts)})",
        )  # fmt: skip

    def _meet(self, layer: int, which: int, half: HalfPlan) -> Stage:
        kind = self._kinds[which].target
        wanted = (self._input(layer, which), *((RESULT[which], layer, device) for device in half.work))
        assert kind is not None
        label = str(Block(kind, layer, which if kind == "sum" else 0))
        onward = self._onward(layer, FFN) if which == ATTENTION else self._onward(layer + 1, ATTENTION)
        return Stage(
            "meet", layer, which, wanted, wanted, *onward, kind, (), tuple(half.work.values()), label,
        )  # fmt: skip

    def _vocab(self, vocab: HalfPlan, end: int) -> list[Stage]:
        found, source = [], self._plan.source
        if self._device in vocab.work:
            shards, row = vocab.work[self._device], ((ROW, end, source),)
            found.append(
                Stage("vocab", end, ATTENTION, row, row, CHOICE, end, (source,), False,
                      "vocab", shards, (), f"vocab({_joined(shards)})")
            )  # fmt: skip
        if source == self._device:
            choices = tuple((CHOICE, end, device) for device in vocab.work)
            held = tuple(vocab.work.values())
            found.append(Stage("choose", end, ATTENTION, choices, choices, held=held))
        return found

    def _half(self, layer: int, which: int) -> HalfPlan:
        planned = self._plan.layers[layer]
        return planned.attention if which == ATTENTION else planned.ffn

    def _input(self, layer: int, which: int) -> Key:
        return INPUT[which], layer, self._holder(layer, which)

    def _holder(self, layer: int, which: int) -> str:
        """The device that a half's input comes from: this one, if it summed the half before."""
        if layer == 0 and which == ATTENTION:
            return self._plan.source
        before = self._half(layer, ATTENTION) if which == FFN else self._half(layer - 1, FFN)
        return self._device if self._device in before.targets else before.target

    def _onward(self, layer: int, which: int) -> tuple[str, int, tuple[str, ...], bool]:
        """How the next half's input travels: its kind, layer, receivers and whether it is the last row only.

        It goes to all devices that need it; after the last layer, its last row goes to the source.
        """
        if layer == len(self._plan.layers):
            return INPUT[ATTENTION], layer, (self._plan.source,), True
        half = self._half(layer, which)
        local = self._device in half.work or self._device in half.targets
        return INPUT[which], layer, (*half.x_order, *((self._device,) if local else ())), False


def _joined(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))
