"""The critical path of a token: the chain of operations, messages and gaps that its latency consists of.

The chain is found from the end backwards. An operation waits for whatever ended last before it on its device: an input
that arrived, or the operation before it, which kept the device busy. A message waits for the operation before it on
the sender. What lies between the two is a gap. So the parts of the chain follow each other without holes, and their
sum is the token's latency. Only spans are read: no placement, no route plan.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Row = Mapping[str, Any]

ROUNDING_S = 1e-7  # a span may seem to end this long after what it led to, because times are converted
CHOICE = "c"  # messages with what a shard of the LM head would choose; the last one ends the token

# Kind of block -> the kinds of messages that it waits for. A sum is one of attention or of an FFN, and waits for those.
INPUTS: Mapping[str, tuple[str, ...]] = {
    "embed": (), "head": ("x",), "proj": ("x", "o"), "ffn": ("y",), "sum": ("x", "o", "y", "p"), "lm_head": ("x",),
    "vocab": ("v",),
}  # fmt: skip
# Messages that an operation without a span sends: the final norm waits for the last x.
SENT_WITHOUT_SPAN: Mapping[str, tuple[str, ...]] = {"v": ("x",)}
_KIND = re.compile(r"[a-z_]+")


@dataclass(frozen=True)
class Part:
    """One part of a token's latency."""

    kind: Literal["block", "transfer", "gap"]
    device: str  # where it was spent; of a transfer, the sender
    start_s: float
    end_s: float
    span: Row | None  # None for a gap

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end_s - self.start_s


@dataclass(frozen=True)
class Stage:
    """Part of a token from the moment at which all before it has ended; it ends on the device `ends_at`."""

    start_s: float
    end_s: float
    ends_at: str
    spans: Sequence[Row]


def block_kind(label: str | None) -> str:
    """The kind of the block or message with this label: `ffn` of `ffn(3,0,1)`."""
    found = _KIND.match(label or "")
    return found[0] if found is not None else ""


def critical_path(spans: Iterable[Row], start_s: float, end_s: float, ends_at: str = "") -> list[Part]:
    """The parts of one token's latency in the order of time; `spans` are the rows of its step.

    The first part begins at `start_s`, the last one ends at `end_s`, and each begins where the one before it ended.
    The last one ends on the device `ends_at`, which is the one with the embedding if not given. Without spans there is
    one gap.
    """
    operations, arrivals = _Ended(), _Ended()
    last, source = None, ""
    for row in sorted(spans, key=lambda row: (row["end_s"], row["start_s"])):
        if row["kind"] == "block":
            operations.add(row["device"], row)
            source = row["device"] if row["block"] == "embed" else source
        else:
            arrivals.add(row["peer"], row)
        last = row
    if last is None:
        return [Part("gap", "", start_s, end_s, None)]
    here, now = ends_at or source or str(last["peer"] or last["device"]), end_s
    wanted: Sequence[str] | None = None if ends_at else (CHOICE,)
    parts: list[Part] = []
    while now > start_s:
        before = _later(operations.before(here, now), arrivals.before(here, now, wanted))
        if before is None or before["end_s"] <= start_s:
            parts.append(Part("gap", here, start_s, now, None))
            break
        ended, began = min(before["end_s"], now), max(before["start_s"], start_s)
        if ended < now:
            parts.append(Part("gap", here, ended, now, None))
        parts.append(Part(before["kind"], before["device"], min(began, ended), ended, before))
        (operations if before["kind"] == "block" else arrivals).use(here, before)
        kind = block_kind(before["block"])
        wanted = INPUTS.get(kind, ()) if before["kind"] == "block" else SENT_WITHOUT_SPAN.get(kind, ())
        here, now = before["device"], min(began, ended)
    return parts[::-1]


class _Ended:
    """Rows by device, in the order in which they ended."""

    def __init__(self) -> None:
        self._rows: dict[str, list[Row]] = defaultdict(list)
        self._ends: dict[str, list[float]] = defaultdict(list)
        self._left: dict[str, int] = {}

    def add(self, device: str, row: Row) -> None:
        """Add a row that ended no earlier than all before it."""
        self._rows[device].append(row)
        self._ends[device].append(row["end_s"])

    def before(self, device: str, now: float, kinds: Sequence[str] | None = None) -> Row | None:
        """The last row that ended by `now`, of one of these kinds of messages; None if there is none."""
        rows = self._rows[device]
        for index in range(self._until(device, now) - 1, -1, -1):
            if kinds is None or block_kind(rows[index]["block"]) in kinds:
                return rows[index]
        return None

    def use(self, device: str, row: Row) -> None:
        """Forget this row and all that ended after it: a chain goes back in time."""
        rows, index = self._rows[device], self._until(device, row["end_s"]) - 1
        while rows[index] is not row:
            index -= 1
        self._left[device] = index

    def _until(self, device: str, now: float) -> int:
        found = bisect_right(self._ends[device], now + ROUNDING_S)
        return min(found, self._left.get(device, found))


def _later(one: Row | None, other: Row | None) -> Row | None:
    """The row that ended later. Of two that ended together, the first: the device was busy."""
    if one is None or other is None:
        return one or other
    return one if one["end_s"] >= other["end_s"] else other
