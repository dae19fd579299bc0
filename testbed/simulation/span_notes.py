"""What simulated devices would have noted of a token: the spans that emulated workers hand over.

On the token clock all tokens of an interval are alike but for their length, so the last one stands for them, and for
the first interval the prefill as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from testbed.placement.cost.model import CostModel
from testbed.placement.observation import Observation
from testbed.placement.plan import Plan
from testbed.simulation.modelled_pass import ModelledPass, Row
from testbed.transport.messages import Span


class _Noted(NamedTuple):
    """A token, and the conditions at its end."""

    observation: Observation
    plan: Plan
    token: int
    started_s: float


class SpanNotes:
    """The spans since they were last taken. A message has arrived with its last byte, before any software.

    `rows` are those of each pass of the prefill, which makes token 0.
    """

    def __init__(self, rows: Sequence[int], hop_overhead_s: float) -> None:
        self._rows, self._hop_overhead_s = tuple(rows), hop_overhead_s
        self._noted: dict[bool, _Noted] = {}  # the prefill, and the last token

    def add(self, observation: Observation, plan: Plan, token: int, started_s: float) -> None:
        """Note a token that has ended."""
        self._noted[token == 0] = _Noted(observation, plan, token, started_s)

    def take(self) -> list[Span]:
        """The spans of the prefill and of the last token, if they have not been taken."""
        noted, self._noted = self._noted, {}
        return [span for _, each in sorted(noted.items(), reverse=True) for span in self._spans(each)]

    def _spans(self, noted: _Noted) -> Iterator[Span]:
        ends, chunks = list(accumulate(self._rows)), len(self._rows)
        passes = list(zip(range(chunks), ends, self._rows, strict=True))
        if noted.token:
            passes = [(chunks - 1 + noted.token, ends[-1] + noted.token, 1)]
        model, start_s = CostModel(noted.observation), noted.started_s
        for step, length, rows in passes:
            modelled = ModelledPass(model, noted.plan, length, rows, step >= chunks - 1, start_s)
            start_s = modelled.stages[-1].end_s
            for stage in modelled.stages:
                for row in stage.spans:
                    if row["kind"] == "block":
                        yield _span(step, row, row["end_s"])
                for row in stage.sent:
                    yield _span(step, row, row["end_s"] - self._hop_overhead_s)


def _span(step: int, row: Row, end_s: float) -> Span:
    size, peer = row["bytes"] or 0.0, row["peer"] or ""
    return Span(step, 0, row["kind"], row["block"], row["device"], peer, row["start_s"], end_s, size, 0.0, False, 0.0)
