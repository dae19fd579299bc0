"""The journal of a run: what must be known to go on after its controller has died. `testbed resume` reads it.

It is a file of lines that only grows, and each line is written as soon as it is known. A line that is not whole ends
the journal, so what is read is always what the run once was. Tables are cut to the sizes in the last checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from testbed.files import open_file

JOURNAL = "journal.jsonl"

Blocks = Mapping[str, Sequence[str]]  # device -> its blocks by name


class Crossing(msgspec.Struct, frozen=True, array_like=True):
    """A boundary that was crossed: how far the traces were, and whether a decision had been carried out."""

    until: float
    boundary: int
    committed: bool


class Asked(msgspec.Struct, frozen=True, omit_defaults=True):
    """One call of the policy: what of its observation changes in a run, and the placement that it was given."""

    tokens_done: int
    hop_overhead_s: float
    devices: Mapping[str, tuple[int, float, float]]  # available_bytes, streaming and compute
    links: Mapping[str, tuple[float | None, float | None, float, float]]  # up, down (None: endless), and their delays
    estimates: Sequence[tuple[str, str, float, float, float]] | None = None  # target, quantity, value, age, spread
    replicas: Mapping[str, str] = {}  # head -> the device that keeps a replica of its cache
    given: Blocks | None = None  # None: it was asked for a first placement
    given_epoch: int = 0


class Checkpoint(msgspec.Struct, frozen=True, tag="checkpoint"):
    """The whole state of a run between two of its steps, besides the tokens, which have lines of their own."""

    boundary: int
    tokens: int
    epoch: int  # of the last change that was attempted
    placement: Blocks
    placement_epoch: int
    now_s: float
    trace_s: float
    lost: Sequence[str]
    asked: Sequence[Asked]  # since the last checkpoint
    crossings: Sequence[Crossing]  # since the last checkpoint
    files: Mapping[str, int]  # bytes of each table's lines
    recovery: Mapping[str, Any] | None = None  # the row of a recovery whose first token had not come


class Generated(msgspec.Struct, frozen=True, tag="token"):
    """A token: its row in the table `tokens`, and the traces' time at which it was reported."""

    row: Mapping[str, Any]
    trace_s: float


class Lost(msgspec.Struct, frozen=True, tag="lost"):
    """A device that was lost and whose loss the run survived: its row in the table `faults`."""

    row: Mapping[str, Any]


class Struck(msgspec.Struct, frozen=True, tag="struck"):
    """A trace has struck a device: all that are killed and not lost yet, and all that are on their way back."""

    killed: Sequence[str]
    returning: Sequence[str]


class Resumed(msgspec.Struct, frozen=True, tag="resumed"):
    """Somebody began to resume the run."""

    wall_s: float


Line = Checkpoint | Generated | Lost | Struck | Resumed

_DECODE = msgspec.json.Decoder(Line).decode


@dataclass
class Past:
    """What a journal says of a run. Without a checkpoint nothing has been generated."""

    checkpoint: Checkpoint | None = None
    tokens: list[Generated] = field(default_factory=list)  # all
    losses: list[Lost] = field(default_factory=list)  # since the checkpoint
    asked: list[Asked] = field(default_factory=list)  # up to the checkpoint
    crossings: list[Crossing] = field(default_factory=list)  # up to the checkpoint
    killed: set[str] = field(default_factory=set)  # by a trace, and nobody had noticed
    returning: set[str] = field(default_factory=set)  # started anew by a trace, and the policy had not seen it again
    resumed: int = 0  # how often the run has been resumed before
    whole_bytes: int = 0  # of the journal's file

    @property
    def lost(self) -> list[str]:
        """The devices that are lost, in order."""
        before = list(self.checkpoint.lost) if self.checkpoint is not None else []
        return list(dict.fromkeys([*before, *(line.row["device"] for line in self.losses)]))

    @property
    def since(self) -> list[Generated]:
        """The tokens since the checkpoint."""
        return self.tokens[self.checkpoint.tokens :] if self.checkpoint is not None else []

    def add(self, line: Line) -> None:
        """Take in the next line."""
        match line:
            case Checkpoint():
                self.checkpoint, self.losses = line, []
                self.asked += line.asked
                self.crossings += line.crossings
                self.returning &= {*line.lost, *self.killed}
            case Generated():
                self.tokens.append(line)
            case Lost():
                self.losses.append(line)
                device = line.row["device"]
                # One that a trace has killed may be on its way back already; another one had come back before.
                (self.killed if device in self.killed else self.returning).discard(device)
            case Struck():
                self.killed, self.returning = set(line.killed), set(line.returning)
            case Resumed():
                self.resumed += 1


def read_past(folder: Path) -> Past:
    """What the journal in a run folder says; a missing or empty one tells of a run that has not begun."""
    past = Past()
    path = folder / JOURNAL
    if not path.exists():
        return past
    with open_file(path) as file:
        for raw in file:
            try:
                line = _DECODE(raw)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                break
            if not raw.endswith(b"\n"):
                break
            past.whole_bytes += len(raw)
            past.add(line)
    return past
