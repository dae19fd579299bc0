"""A policy's run of an instance as a row of the table of regimes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from benchmarks.results.play import Played

RIVALS = ("single", "round-robin", "greedy", "dynamic-threshold", "edgeshard", "layerwise", "tensor-parallel",
          "galaxy", "paper-search")  # fmt: skip
MEASURED = ("single", "static", *RIVALS[1:], "headroom", "exact")
Row = dict[str, Any]


def row_of(number: int, policy: str, shards: int, played: Played) -> Row:
    """The row of a policy's run of a cell."""
    return {
        "cell": number,
        "policy": policy,
        "ffn_shards": shards,
        "status": played.status,
        "token_ms": played.cost_ms if played.status == "done" else None,
        "decision_ms": 1e3 * statistics.fmean(played.decision_s) if played.decision_s else None,
        "reason": played.reason,
    }


class Work(NamedTuple):
    """A part of the collection: its key, and the function that computes its rows."""

    key: str
    compute: Callable[[], Iterable[Row]]
