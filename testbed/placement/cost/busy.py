"""For how long each device computes in a step, as the cost model has it; the rest of the step it waits."""

from __future__ import annotations

from collections import Counter

from testbed.placement.blocks import Kind
from testbed.placement.cost.model import cost_model
from testbed.placement.observation import Observation
from testbed.placement.plan import Plan, halves_of


class Busy:
    """The busy seconds of every device under one observation and plan."""

    def __init__(self, observation: Observation, plan: Plan) -> None:
        self._model, self._source = cost_model(observation), plan.source
        self._blocks: Counter[tuple[str, Kind]] = Counter()
        for layer in plan.layers:
            for half, kind in zip((layer.attention, layer.ffn), halves_of(observation.partition), strict=True):
                for device, parts in half.work.items():
                    assert kind.work is not None
                    self._blocks[device, kind.work] += len(parts)
                if kind.target is not None:
                    self._blocks.update((device, kind.target) for device in half.targets)
        self._vocab = {} if plan.vocab is None else {name: len(parts) for name, parts in plan.vocab.work.items()}

    def seconds(self, length: int, rows: int = 1, last: bool = True) -> dict[str, float]:
        """Busy seconds by device for `rows` tokens that end at `length`; only a `last` chunk runs the LM head."""
        model = self._model
        found = dict.fromkeys(model.index, 0.0)
        found[self._source] += model.source_seconds(model.source, rows, lm_head=last)
        for (device, kind), count in self._blocks.items():
            found[device] += count * model.seconds(kind, length, rows)[model.index[device]]
        for device, count in self._vocab.items() if last else ():
            found[device] += count * model.seconds("vocab", length)[model.index[device]]
        return found
