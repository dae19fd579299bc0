"""Placing blocks one after another without a dead end: each step checks that the blocks still to come will fit."""

from __future__ import annotations

from collections import Counter

from testbed.placement.cost.memory import Infeasible, Shortage, nothing_fits
from testbed.placement.cost.packing import first_fit, pack
from testbed.placement.local.draft import Draft
from testbed.units import format_bytes


class ForwardChecking:
    """Which devices may take the next block so that all the others still fit somewhere.

    While first-fit can pack the blocks that are left, a device may take any block after which it still can. If only an
    exact packing exists, each device takes as many blocks of each kind as that packing gives it. Raises Infeasible
    when there is none.
    """

    def __init__(self, draft: Draft, who: str) -> None:
        self._draft = draft
        kinds = range(len(draft.slots.kinds))
        self._sizes = {kind: draft.size_of_kind(kind) for kind in kinds}
        self._order = sorted(kinds, key=lambda kind: -self._sizes[kind])
        self._left = Counter(draft.slots.kind_of)
        self._quota: list[dict[int, int]] | None = None
        rooms = self._rooms()
        if min(rooms) < 0:
            raise _refusal(draft, who, rooms.index(min(rooms)))
        all_blocks = [(self._sizes[kind], self._left[kind]) for kind in self._order]
        if first_fit(rooms, all_blocks) is None:
            packed = pack(rooms, all_blocks)
            if packed is None:
                raise _refusal(draft, who, max(draft.devices, key=lambda device: rooms[device]))
            self._quota = [dict(zip(self._order, counts, strict=True)) for counts in packed]

    def _rooms(self) -> list[int]:
        return [budget - held for budget, held in zip(self._draft.budgets, self._draft.reserved_bytes, strict=True)]

    def allows(self, slot: int, device: int) -> bool:
        """Whether this block fits on `device`, and the blocks left after it still fit."""
        kind = self._draft.kind(slot)
        if self._quota is not None:
            return self._quota[device][kind] > 0
        rooms = self._rooms()
        rooms[device] -= self._sizes[kind]
        if rooms[device] < 0:
            return False
        left = [(self._sizes[other], self._left[other] - (other == kind)) for other in self._order]
        return first_fit(rooms, left) is not None

    def assign(self, slot: int, device: int) -> None:
        """Place the block there."""
        kind = self._draft.kind(slot)
        self._left[kind] -= 1
        if self._quota is not None:
            self._quota[device][kind] -= 1
        self._draft.place(slot, device)


def _refusal(draft: Draft, who: str, device: int) -> Infeasible:
    """Infeasible with the proof, and the device that comes nearest to being the reason."""
    observation = draft.observation
    need = max(draft.reserved_bytes[device], sum(draft.reserved_bytes) + sum(draft.reserved_sizes))
    shortage = Shortage(draft.model.names[device], need, draft.budgets[device], "no placement fits")
    proof = nothing_fits(observation) or (
        f"the blocks do not fit; device {shortage.device} needs {format_bytes(need)} and has "
        f"{format_bytes(shortage.budget_bytes)}"
    )
    return Infeasible(f"{who} found no placement that fits after {observation.tokens_done} tokens: {proof}", shortage)
