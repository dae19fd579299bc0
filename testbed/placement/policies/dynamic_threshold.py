"""`dynamic-threshold`: moves blocks off devices that are too full or too busy, and nothing else.

A common rule in resource managers, and a baseline in Kafetzis, Khalili, Koutsopoulos (arXiv 2505.02533) that is not
specified there. Interpreted:

- *The first placement* is `resource-aware`'s, so that only the rule for moving differs, with only the part of each
  memory below the threshold where that is enough.
- *Memory*: what a device's blocks will take at the interval's last token, over what it has. *Compute*: the time its
  blocks take in one token, over the deadline of `resource-aware` (`deadline` overrides it).
- *Moving*: while a device is over a threshold, the block leaves it that raises the predicted interval cost least, for a
  device that is below both thresholds with it. If there is none it stays, unless memory has really run out: then
  the cheapest repair is made as in the other policies.
"""

from __future__ import annotations

from dataclasses import replace

from testbed.errors import ConfigError
from testbed.placement.blocks import Placement
from testbed.placement.cost.memory import Infeasible
from testbed.placement.local.draft import Draft, Shift, decide_on_draft
from testbed.placement.local.improve import repair
from testbed.placement.observation import Observation
from testbed.placement.policies.resource_aware import ResourceAware, default_deadline
from testbed.placement.policy_options import duration_option
from testbed.placement.useful import reachable, with_room

THRESHOLD = 0.9  # of a device's memory, and of the deadline


class DynamicThreshold:
    """Thresholds are fractions of memory and of the deadline; `deadline` is a duration (`500 ms`) or seconds."""

    name = "dynamic-threshold"

    def __init__(self, memory: float = THRESHOLD, compute: float = THRESHOLD, deadline: object = None) -> None:
        for key, value in (("memory", memory), ("compute", compute)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
                raise ConfigError(
                    f"policy {self.name}: {key} is {value!r}, but it must be a fraction over 0, at most 1"
                )
        self._memory, self._compute = memory, compute
        self._deadline_s = duration_option(self.name, "deadline", deadline)
        if self._deadline_s == 0:
            raise ConfigError(f"policy {self.name}: deadline must be longer than 0 s, like '500 ms'")

    def reset(self, seed: int) -> None:
        """Nothing is remembered and nothing is random."""

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """`resource-aware`'s first placement; later, relieve what is over a threshold."""
        if placement is None:
            return self._first(observation)
        return decide_on_draft(observation, placement, self._relieve_all, self.name)

    def _first(self, observation: Observation) -> Placement:
        seen = reachable(with_room(observation, None), None)
        views = (replace(v, available_bytes=int(v.available_bytes * self._memory)) for v in seen.devices)
        try:
            return ResourceAware().place(replace(seen, devices=tuple(views)))
        except Infeasible:
            return ResourceAware().decide(observation, None)

    def _relieve_all(self, draft: Draft) -> None:
        load = _Load(draft, self._memory, self._compute, self._deadline_s or default_deadline(draft.model))
        for device in range(len(draft.budgets)):
            while load.over(device) and load.relieve(device):
                pass
        if draft.overloaded():
            repair(draft, self.name)


class _Load:
    """How full and how busy devices are."""

    def __init__(self, draft: Draft, memory: float, compute: float, deadline_s: float) -> None:
        self.draft = draft
        self.most_bytes = [memory * budget for budget in draft.budgets]
        self.most_s = compute * deadline_s
        length = draft.model.lengths[1]
        self.block_s = [draft.model.seconds(block.kind, length) for block in draft.blocks]

    def busy_s(self, device: int) -> float:
        draft = self.draft
        held = (slot for slot, where in enumerate(draft.where) if where == device)
        return sum(self.block_s[slot][device] for slot in held)

    def over(self, device: int) -> bool:
        return self.draft.end_bytes[device] > self.most_bytes[device] or self.busy_s(device) > self.most_s

    def relieve(self, device: int) -> bool:
        """Take the block away whose leaving costs least; False where no other device may have one."""
        draft = self.draft
        busy = [self.busy_s(other) for other in range(len(draft.budgets))]
        best: tuple[float, Shift] | None = None
        for slot in self._different(device):
            for target in range(len(busy)):
                seconds = busy[target] + self.block_s[slot][target]
                full = draft.end_bytes[target] + draft.end_sizes[slot] > self.most_bytes[target]
                if target == device or full or seconds > self.most_s:
                    continue
                undo = draft.try_shifts([(slot, target)])
                if undo is not None:
                    if best is None or draft.cost < best[0]:
                        best = (draft.cost, (slot, target))
                    draft.take_back(undo)
        if best is not None:
            draft.apply([best[1]])
        return best is not None

    def _different(self, device: int) -> list[int]:
        """The last block of each kind in each layer on a device: the others of its kind are like it."""
        found: dict[tuple[int, str], int] = {}
        for slot, where in enumerate(self.draft.where):
            if where == device:
                found[slot // self.draft.stride, self.draft.blocks[slot].kind] = slot
        return list(found.values())
