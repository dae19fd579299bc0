"""Computes every policy on every cell of the regime map.

There are three kinds of parts, so that a change of `headroom` does not recompute the other policies: `head` has
`headroom`, `rivals` has the others, and `causes` finds where gains come from. The result of `static` follows from the
first two, because it keeps the best first placement of all others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import get_args

import pandas as pd

from benchmarks.results.cells import FFN_SHARDS, GRID, load, shuffled
from benchmarks.results.class_search import HeadsTogether
from benchmarks.results.play import Played, play
from benchmarks.results.rows import RIVALS, Row, Work, row_of
from benchmarks.results.store import Parts
from testbed.experiment.schema import Experiment
from testbed.placement.exact.classes import PlacementClass, in_class
from testbed.placement.policies import make_policy

WHOLE_LAYERS = ("single", "edgeshard", "layerwise")
CELLS_IN_PART = 20
LIFTED = " without memory limits"
GAIN = 1.15  # the least ratio of the time of whole layers to ours that counts as a gain


def rivals(number: int) -> Iterable[Row]:
    """All policies except `headroom`, and except `static`, which asks `headroom`."""
    experiment = load(number)
    for policy in RIVALS:
        yield row_of(number, policy, FFN_SHARDS, play(experiment, make_policy(policy, {})))


def head(number: int) -> Iterable[Row]:
    """`headroom`, and the class of its placement."""
    experiment = load(number)
    played = play(experiment, make_policy("headroom", {}))
    yield row_of(number, "headroom", FFN_SHARDS, played) | {"found_class": class_of(experiment, played)}


def causes(number: int, ours_ms: float) -> Iterable[Row]:
    """The time with only heads apart, with whole layers, with only FFNs cut, and without memory limits where needed."""
    whole_ffn = load(number, partition={"ffn_shards": 1})
    heads = play(whole_ffn, make_policy("headroom", {}))
    yield row_of(number, "headroom", 1, heads) | {"found_class": class_of(whole_ffn, heads)}
    layers = [play(whole_ffn, make_policy(policy, {})) for policy in WHOLE_LAYERS]
    yield from (row_of(number, policy, 1, one) for policy, one in zip(WHOLE_LAYERS, layers, strict=True))
    yield row_of(number, HeadsTogether.name, FFN_SHARDS, play(load(number), HeadsTogether()))
    if GRID[number].memory == "tight" and min(one.cost_ms for one in layers) >= GAIN * ours_ms:
        roomy = lifted(load(number))
        for policy in ("headroom", "layerwise"):
            yield row_of(number, policy + LIFTED, FFN_SHARDS, play(roomy, make_policy(policy, {})))


def lifted(experiment: Experiment) -> Experiment:
    """The same fleet with room for the whole model on each device."""
    need = sum(device.memory_bytes for device in experiment.topology.devices)
    devices = tuple(replace(device, memory_bytes=need) for device in experiment.topology.devices)
    return experiment.model_copy(update={"topology": replace(experiment.topology, devices=devices)})


def class_of(experiment: Experiment, played: Played) -> str | None:
    """The smallest class that contains the first placement."""
    if played.first is None or played.observation is None:
        return None
    classes = get_args(PlacementClass)
    return next(klass for klass in classes if in_class(played.observation, played.first, klass))


def work(parts: Parts) -> Iterator[list[Work]]:
    """The parts in groups for the same cells; any first groups are a fair sample of the grid."""
    order = shuffled()
    for start in range(0, len(order), CELLS_IN_PART):
        cells = order[start : start + CELLS_IN_PART]
        number = start // CELLS_IN_PART
        yield [
            Work(f"head-{number:03}", partial(_each, head, cells)),
            Work(f"rivals-{number:03}", partial(_each, rivals, cells)),
            Work(f"causes-{number:03}", partial(_causes, parts, f"head-{number:03}")),
        ]


def _each(compute: Callable[[int], Iterable[Row]], cells: Iterable[int]) -> list[Row]:
    return [row for number in cells for row in compute(number)]


def _causes(parts: Parts, key: str) -> list[Row]:
    ours = [row for row in parts.find(key) or () if row["policy"] == "headroom"]
    return [row for one in ours for row in causes(one["cell"], one["token_ms"] or math.inf)]


def table(parts: Parts) -> pd.DataFrame:
    """A row for each policy and partition of the cells that all policies have finished, with causes where known."""
    groups = [[parts.find(one.key) or [] for one in group] for group in work(parts)]
    found = [row for group in groups if group[0] and group[1] for rows in group for row in rows]
    frame = pd.DataFrame([GRID[row["cell"]]._asdict() | row for row in found])
    cut = frame[(frame.ffn_shards == FFN_SHARDS) & frame.policy.isin(["headroom", *RIVALS])]
    best = cut.loc[cut.dropna(subset="token_ms").groupby("cell").token_ms.idxmin()]
    asked_ms = cut.groupby("cell").decision_ms.sum().reindex(best.cell)
    whole = pd.concat([
        frame,
        best.assign(policy="static", decision_ms=asked_ms.to_numpy(), found_class=None),
    ])  # fmt: skip
    return whole.sort_values(["cell", "ffn_shards", "policy"]).reset_index(drop=True)
