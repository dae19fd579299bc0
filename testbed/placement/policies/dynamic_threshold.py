"""`dynamic-threshold`: moves blocks off devices that are too full or too busy, and nothing else.

It is a common rule in resource managers. Kafetzis, Khalili, Koutsopoulos (arXiv 2505.02533) have it as a baseline but
do not specify it. So it is interpreted:

- *The first placement* is that of `paper-search`, so that only the rule for moving differs. It uses only the part of
  each memory below the threshold if that is enough.
- *Memory* is the bytes that a device's blocks will take at the interval's last token, over the bytes it has. *Compute*
  is the time its blocks take in one token, over the deadline of `paper-search`; `deadline` overrides that.
- *Moving*: while a device is over a threshold, one of its blocks moves to a device that is below both thresholds with
  it. Among all such moves the one is taken that raises the predicted interval cost least. If there is none, the blocks
  stay. Only if memory has really run out, the cheapest repair is made, as in the other policies.
"""

from __future__ import annotations

from dataclasses import replace

from testbed.errors import ConfigError
from testbed.placement.blocks import Placement
from testbed.placement.cost.memory import Infeasible
from testbed.placement.local.decision import decide_on_draft
from testbed.placement.local.draft import Draft, Shift
from testbed.placement.local.repair import repair
from testbed.placement.observation import Observation
from testbed.placement.policies.paper import default_deadline
from testbed.placement.policies.paper_search import PaperSearch
from testbed.placement.policy_options import deadline_option
from testbed.placement.useful import reachable, with_room

THRESHOLD = 0.9  # of a device's memory and of the deadline; the paper gives no number


class DynamicThreshold:
    """Thresholds are fractions of memory and of the deadline; `deadline` is a duration (`500 ms`) or seconds."""

    name = "dynamic-threshold"
    improves_drafts = True

    def __init__(self, memory: float = THRESHOLD, compute: float = THRESHOLD, deadline: object = None) -> None:
        for key, value in (("memory", memory), ("compute", compute)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
                raise ConfigError(
                    f"policy {self.name}: {key} is {value!r}, but it must be a fraction over 0, at most 1"
                )
        self._memory, self._compute = memory, compute
        self._deadline_s = deadline_option(self.name, deadline)

    def reset(self, seed: int) -> None:
        """Nothing is remembered and nothing is random."""

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """Place first like `paper-search`; later relieve the devices that are over a threshold."""
        if placement is None:
            return self._first(observation)
        return decide_on_draft(observation, placement, self._relieve_all, self.name)

    def _first(self, observation: Observation) -> Placement:
        seen = reachable(with_room(observation, None), None)
        views = (replace(v, available_bytes=int(v.available_bytes * self._memory)) for v in seen.devices)
        try:
            return PaperSearch().place(replace(seen, devices=tuple(views)))
        except Infeasible:
            return PaperSearch().decide(observation, None)

    def _relieve_all(self, draft: Draft) -> None:
        load = _Load(draft, self._memory, self._compute, self._deadline_s or default_deadline(draft.model))
        for device in draft.devices:
            while load.over(device) and load.relieve(device):
                pass
        if draft.overloaded():
            repair(draft, self.name)


class _Load:
    """How full and how busy the devices of a draft are, against the thresholds."""

    def __init__(self, draft: Draft, memory: float, compute: float, deadline_s: float) -> None:
        self.draft = draft
        self.most_bytes = [memory * budget for budget in draft.budgets]
        self.most_s = compute * deadline_s
        length = draft.model.lengths[1]
        self.block_s = [draft.model.seconds(block.kind, length) for block in draft.blocks]  # [slot][device]

    def busy_s(self, device: int) -> float:
        """Seconds that the device's blocks take in one token."""
        return sum(self.block_s[slot][device] for slot, where in enumerate(self.draft.where) if where == device)

    def over(self, device: int) -> bool:
        """Whether the device is over one of the thresholds."""
        return self.draft.end_bytes[device] > self.most_bytes[device] or self.busy_s(device) > self.most_s

    def relieve(self, device: int) -> bool:
        """Move away the block that costs least to move; False where no other device may have one."""
        draft = self.draft
        busy = [self.busy_s(other) for other in draft.devices]
        best: tuple[float, Shift] | None = None
        for slot in self._different(device):
            for target in draft.devices:
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
        """The last block of each kind in each layer on a device; the others of its kind are like it."""
        found: dict[tuple[int, str], int] = {}
        for slot, where in enumerate(self.draft.where):
            if where == device:
                found[self.draft.slots.layer_of(slot), self.draft.blocks[slot].kind] = slot
        return list(found.values())
