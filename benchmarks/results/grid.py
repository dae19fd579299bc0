"""Every policy on every cell of the regime map: the collecting, in parts of a minute or less.

Three kinds of parts, because the first does not depend on `headroom` and need not be repeated when that changes:
`rivals` has the other policies, `ours` has `headroom` (with the run's seed, and with seed 0, which is the one that
`static` asks), `heads` has `headroom` and the policies of whole layers where the FFN is not cut.
`static` follows from the first two: the best of all the others' first placements, and it never moves.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any, get_args

import pandas as pd

from benchmarks.results.cells import FFN_SHARDS, GRID, load, shuffled
from benchmarks.results.play import Played, play
from benchmarks.results.store import Parts
from testbed.experiment import Experiment
from testbed.placement.exact.classes import PlacementClass, in_class
from testbed.placement.policies import make_policy

RIVALS = ("single", "round-robin", "greedy", "dynamic-threshold", "edgeshard", "layerwise", "tensor-parallel",
          "galaxy", "resource-aware")  # fmt: skip
WHOLE_LAYERS = ("single", "edgeshard", "layerwise")
KINDS = ("rivals", "ours", "heads")
CELLS_IN_PART = 20
Row = dict[str, Any]


def row_of(number: int, policy: str, shards: int, played: Played) -> Row:
    """One policy's run of one cell."""
    return {
        "cell": number,
        "policy": policy,
        "ffn_shards": shards,
        "status": played.status,
        "token_ms": played.cost_ms if played.status == "done" else None,
        "decision_ms": 1e3 * statistics.fmean(played.decision_s) if played.decision_s else None,
        "reason": played.reason,
    }


def rivals(number: int) -> Iterable[Row]:
    """All policies but `headroom`, and `static`, which asks it."""
    experiment = load(number)
    for policy in RIVALS:
        yield row_of(number, policy, FFN_SHARDS, play(experiment, make_policy(policy, {})))


def ours(number: int) -> Iterable[Row]:
    """`headroom` with the cell's seed and with that of `static`."""
    experiment = load(number)
    played = play(experiment, make_policy("headroom", {}))
    yield row_of(number, "headroom", FFN_SHARDS, played) | {"found_class": class_of(experiment, played)}
    seed_0 = play(experiment, make_policy("headroom", {}), seed=0)
    yield row_of(number, "headroom as static asks it", FFN_SHARDS, seed_0)


def heads(number: int) -> Iterable[Row]:
    """The best of placements that cut heads alone, and of whole layers, where the FFN is one block."""
    whole_ffn = load(number, partition={"ffn_shards": 1})
    played = play(whole_ffn, make_policy("headroom", {}))
    yield row_of(number, "headroom", 1, played) | {"found_class": class_of(whole_ffn, played)}
    for policy in WHOLE_LAYERS:
        yield row_of(number, policy, 1, play(whole_ffn, make_policy(policy, {})))


def class_of(experiment: Experiment, played: Played) -> str | None:
    """The smallest class that the first placement belongs to."""
    if played.first is None or played.observation is None:
        return None
    classes = get_args(PlacementClass)
    return next(klass for klass in classes if in_class(played.observation, played.first, klass))


def parts_of(kind: str) -> list[tuple[str, list[int]]]:
    """(key, cells) of each part; any first parts are a fair sample of the grid."""
    order = shuffled()
    return [
        (f"{kind}-{start // CELLS_IN_PART:03}", order[start : start + CELLS_IN_PART])
        for start in range(0, len(order), CELLS_IN_PART)
    ]


def collect(parts: Parts, kinds: Iterable[str], until_s: float, told: Callable[[int], None]) -> bool:
    """Compute the parts that are missing until `time.monotonic()` is past `until_s`; True when all are there."""
    make_policy("headroom", {}).reset(0)  # compiles what is not compiled yet
    compute = {"rivals": rivals, "ours": ours, "heads": heads}
    wanted = [(kind, *part) for parts_ in zip(*map(parts_of, kinds), strict=True) for kind, part in zip(kinds, parts_)]
    for done, (kind, key, cells) in enumerate(wanted):
        if parts.find(key) is None:
            if time.monotonic() > until_s:
                return False
            started = time.process_time()
            rows = [row for number in cells for row in compute[kind](number)]
            parts.put(key, rows, time.process_time() - started)
        told(done + 1)
    return True


def table(parts: Parts) -> pd.DataFrame:
    """One row for each cell, policy and partition of the cells that both kinds of parts have."""
    found = {kind: [row for key, _ in parts_of(kind) for row in parts.find(key) or ()] for kind in KINDS}
    both = {row["cell"] for row in found["rivals"]} & {row["cell"] for row in found["ours"]}
    rows = [row for kind in KINDS for row in found[kind] if row["cell"] in both]
    frame = pd.DataFrame([row | GRID[row["cell"]]._asdict() for row in rows])
    cut = frame[(frame.ffn_shards == FFN_SHARDS) & (frame.policy != "headroom")]
    best = cut.loc[cut.dropna(subset="token_ms").groupby("cell").token_ms.idxmin()]
    static = best.assign(policy="static", decision_ms=cut.groupby("cell").decision_ms.sum().reindex(best.cell).values)
    whole = pd.concat([frame[frame.policy != "headroom as static asks it"], static])
    return whole.sort_values(["cell", "ffn_shards", "policy"]).reset_index(drop=True)
