r"""A change of placement as a state machine: events in, instructions out, no I/O.

    idle -> preparing ----------------------> transferring -> committing -> done
                 |  \-> copying -> halting -/     |
                 \__________\__________\__________\-> aborting -> aborted

With `live`, blocks are copied while tokens go on. When nothing but the newest rows is missing anywhere, the source
halts, and only these rows are transferred while no token is generated.

Until every block has arrived whole, its sender owns it, and any failure aborts: destinations forget what they took in
and the old epoch goes on. Once the commit has been sent there is no way back, because some worker may already run the
new route plan. After the loss of a device, a recovery asks the living what they hold (`reconciling`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NoReturn

from testbed.errors import RunFailed
from testbed.placement.blocks import Block

Phase = Literal["idle", "preparing", "copying", "halting", "transferring", "committing", "aborting", "done", "aborted"]


_OPEN: tuple[Phase, ...] = ("preparing", "copying", "halting", "transferring")  # phases that can be aborted


@dataclass(frozen=True)
class Move:
    """One block's migration."""

    block: Block
    source: str
    destination: str
    payload_bytes: int


@dataclass(frozen=True)
class PrepareOn:
    """Have `device` set memory aside for these blocks."""

    device: str
    moves: tuple[Move, ...]


@dataclass(frozen=True)
class TransferFrom:
    """Have `device` send these blocks."""

    device: str
    moves: tuple[Move, ...]


@dataclass(frozen=True)
class CopyFrom:
    """Have `device` copy these blocks while tokens go on."""

    device: str
    moves: tuple[Move, ...]


@dataclass(frozen=True)
class HaltSource:
    """Have the source begin no further token."""


@dataclass(frozen=True)
class FinishOn:
    """Have `device` copy, or take in, the rows that are still missing."""

    device: str


@dataclass(frozen=True)
class CommitOn:
    """Have `device` switch to the new route plan and drop these blocks."""

    device: str
    drop: tuple[Block, ...]


@dataclass(frozen=True)
class AbortOn:
    """Have `device` forget the new epoch."""

    device: str


Instruction = PrepareOn | TransferFrom | CopyFrom | HaltSource | FinishOn | CommitOn | AbortOn


@dataclass
class Migration:
    """One attempt to reach a new placement."""

    epoch: int
    devices: Sequence[str]  # all living devices, because every worker switches epoch
    moves: Sequence[Move]
    drops: Mapping[str, tuple[Block, ...]] | None = None  # at the commit, by device; None: what has moved away
    live: bool = False  # whether tokens go on while blocks are copied
    phase: Phase = "idle"
    reason: str = ""
    _waiting: set[str] = field(default_factory=set)  # answers that are still to come in this phase
    _early: set[str] = field(default_factory=set)  # answers of the next phase, from destinations that are prepared
    _story: list[str] = field(default_factory=list)

    def begin(self) -> list[Instruction]:
        """Start. Destinations set memory aside first."""
        self._expect("begin", "idle")
        if not self.moves:
            return self._commit()
        self.phase = "preparing"
        instructions = [PrepareOn(device, moves) for device, moves in self._by("destination").items()]
        self._waiting = {instruction.device for instruction in instructions}
        return list(instructions)

    def prepared(self, device: str) -> list[Instruction]:
        """A destination has set memory aside."""
        if self.phase == "aborting":
            return []  # it was on its way when we aborted
        self._take(device, f"prepared by {device}", "preparing")
        if self._waiting:
            return []
        senders = self._senders()
        if self.live:
            self.phase = "copying"
            self._waiting = {f"caught up {device}" for device in senders} | {
                f"loaded {device}" for device in self._by("destination")
            }
            self._waiting -= self._early
            return [CopyFrom(device, moves) for device, moves in senders.items()] or self._halt_when_ready()
        self.phase = "transferring"
        self._waiting = self._ends() - self._early
        return [TransferFrom(device, moves) for device, moves in senders.items()] or self._commit_when_whole()

    def caught_up(self, device: str) -> list[Instruction]:
        """The receivers of a sender lack nothing but the newest row."""
        return self._ready(f"caught up {device}")

    def loaded(self, device: str) -> list[Instruction]:
        """A destination has loaded all weights that do not travel. It may have before the others are prepared."""
        if self.phase == "preparing":
            return self._early_answer("loaded", device)
        return self._ready(f"loaded {device}")

    def halted(self) -> list[Instruction]:
        """No token is under way, and none will begin before the commit or the abort."""
        if self.phase in ("aborting", "aborted"):
            return []
        self._expect("halted", "halting")
        self.phase = "transferring"
        self._waiting = self._ends()
        return [FinishOn(device) for device in sorted({*self._senders(), *self._by("destination")})]

    def sent(self, device: str) -> list[Instruction]:
        """A sender's blocks have all been acknowledged."""
        return self._answered(f"sent {device}")

    def arrived(self, device: str) -> list[Instruction]:
        """A destination has all its blocks. Without payload it may have them before the others are prepared."""
        if self.phase == "preparing":
            return self._early_answer("arrived", device)
        return self._answered(f"arrived {device}")

    def refused(self, device: str, reason: str) -> list[Instruction]:
        """A device cannot do it: abort everywhere; the old epoch goes on."""
        if self.phase == "aborting":
            return []
        self._expect(f"refused by {device}", *_OPEN)
        return self.abort(reason)

    def abort(self, reason: str) -> list[Instruction]:
        """Give up before the commit, for example because a transfer takes too long."""
        self._expect(f"abort ({reason})", *_OPEN)
        self.phase, self.reason = "aborting", reason
        self._waiting = {end for move in self.moves for end in (move.source, move.destination) if end in self.devices}
        return [AbortOn(device) for device in sorted(self._waiting)]

    def aborted(self, device: str) -> list[Instruction]:
        """A device has forgotten the epoch."""
        self._take(device, f"aborted by {device}", "aborting")
        if not self._waiting:
            self.phase = "aborted"
        return []

    def committed(self, device: str) -> list[Instruction]:
        """A device runs the new route plan."""
        self._take(device, f"committed by {device}", "committing")
        if not self._waiting:
            self.phase = "done"
        return []

    @property
    def over(self) -> bool:
        """Whether it is done or aborted."""
        return self.phase in ("done", "aborted")

    @property
    def outcome(self) -> Literal["done", "aborted"]:
        """How it ended. What a loss has cut short counts as aborted."""
        return "done" if self.phase == "done" else "aborted"

    @property
    def can_be_aborted(self) -> bool:
        """Whether the old epoch can still go on."""
        return self.phase in _OPEN

    @property
    def silent(self) -> list[str]:
        """The answers still to come, for example `sent b`. A bare device has yet to prepare, commit or abort."""
        return sorted(self._waiting)

    def _ready(self, what: str) -> list[Instruction]:
        if self.phase == "aborting":
            return []
        self._take(what, what, "copying")
        return self._halt_when_ready()

    def _halt_when_ready(self) -> list[Instruction]:
        if self._waiting:
            return []
        self.phase = "halting"
        return [HaltSource()]

    def _senders(self) -> dict[str, tuple[Move, ...]]:
        """The devices from which anything travels, with these moves."""
        found = {
            device: tuple(move for move in moves if move.payload_bytes) for device, moves in self._by("source").items()
        }
        return {device: moves for device, moves in found.items() if moves}

    def _ends(self) -> set[str]:
        """The answers to a transfer."""
        return {f"sent {device}" for device in self._senders()} | {f"arrived {d}" for d in self._by("destination")}

    def _answered(self, what: str) -> list[Instruction]:
        if self.phase == "aborting":
            return []
        self._take(what, what, "transferring")
        return self._commit_when_whole()

    def _commit_when_whole(self) -> list[Instruction]:
        return [] if self._waiting else self._commit()

    def _commit(self) -> list[Instruction]:
        self.phase = "committing"
        self._waiting = set(self.devices)
        leaving = self.drops
        if leaving is None:
            leaving = {device: tuple(move.block for move in moves) for device, moves in self._by("source").items()}
        return [CommitOn(device, leaving.get(device, ())) for device in self.devices]

    def _by(self, end: Literal["source", "destination"]) -> dict[str, tuple[Move, ...]]:
        grouped: dict[str, tuple[Move, ...]] = {}
        for move in self.moves:
            device = move.source if end == "source" else move.destination
            grouped[device] = (*grouped.get(device, ()), move)
        return grouped

    def _take(self, answer: str, event: str, allowed: Phase) -> None:
        """Tick off an answer that is awaited; refuse one that is not."""
        self._expect(event, allowed)
        if answer not in self._waiting:
            self._refuse(event)
        self._waiting.discard(answer)

    def _early_answer(self, what: str, device: str) -> list[Instruction]:
        """Keep an answer until all are prepared, once from each destination that is prepared itself."""
        event = f"{what} {device}"
        self._expect(event, "preparing")
        if device in self._waiting or event in self._early or device not in self._by("destination"):
            self._refuse(event)
        self._early.add(event)
        return []

    def _expect(self, event: str, *allowed: Phase) -> None:
        self._story.append(f"{event} in {self.phase}")
        if self.phase not in allowed:
            self._refuse(event)

    def _refuse(self, event: str) -> NoReturn:
        story = "; ".join(self._story)
        raise RunFailed(f"migration to epoch {self.epoch}: {event!r} cannot happen now; so far: {story}")
