"""Each decision of each policy beside `exact`'s, from the same observation and the same present placement.

Instances are drawn by the project's own generators from `experiments/small-scale.yaml`, so that each can be replayed
by itself (`Instance.command`).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.results.store import ROOT
from testbed.controller.calibration import NOMINAL_HOP_S
from testbed.controller.conditions import Conditions, observe
from testbed.experiment.schema import Experiment
from testbed.placement.blocks import Placement
from testbed.placement.cost.memory import Infeasible, shortages
from testbed.placement.exact.offline import best_run
from testbed.placement.exact.solve import Solution, decision_cost, optimum
from testbed.placement.observation import Observation
from testbed.placement.plan import make_plan
from testbed.placement.policies import make_policy

EXPERIMENT = "experiments/small-scale.yaml"
INTERVAL = 8
LIMIT_S = 60.0  # of wall clock for one decision of `exact`
ONE_LAYER, FOUR_LAYERS, WHOLE_RUN = "one layer", "four layers", "whole run"
MEMORIES = {"tight": "1.4 x model", "loose": "5 x model"}
# Where memory is tight it also shrinks and grows, so that blocks must move.
SHRINKING = {"generate": "fluctuation", "target": "device/*", "quantity": "memory", "spread": 0.1, "least": 0.8}
# The paper's first placement by scores alone, without the moves that `resource-aware` tries after it.
SCORES_ALONE = "resource-aware, scores alone"
VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {SCORES_ALONE: ("resource-aware", {"refine_first": False})}
DECIDED, REFUSED, OVERFULL = "decided", "refused", "does not fit"
Row = dict[str, Any]


class Instance(NamedTuple):
    """A run whose decisions are compared."""

    setting: str
    devices: int
    memory: str
    ffn_shards: int
    seed: int

    @property
    def key(self) -> str:
        """A file name for it."""
        return "-".join(str(part).replace(" ", "_") for part in self)

    @property
    def overrides(self) -> list[str]:
        """What is set in the experiment, as `--set` takes it."""
        layers, heads, decisions = {
            ONE_LAYER: (1, 8 + self.seed % 9, 4), FOUR_LAYERS: (4, 8, 4), WHOLE_RUN: (1, 4, 8),
        }[self.setting]  # fmt: skip
        traces = [{"generate": "fluctuation", "target": target} for target in ("link/*", "device/*")]
        settings: Mapping[str, Any] = {
            "model.layers": layers,
            "model.heads": heads,
            "tokens": decisions * INTERVAL,
            "interval": INTERVAL,
            "topology.devices": self.devices,
            "topology.memory": MEMORIES[self.memory],
            "traces": [*traces, SHRINKING] if self.memory == "tight" else traces,
            "partition.ffn_shards": self.ffn_shards,
            "seed": self.seed,
        }
        return [f"{key}={json.dumps(value)}" for key, value in settings.items()]

    def command(self, policy: str) -> str:
        """What replays it with one policy."""
        words = [f"testbed replay {EXPERIMENT} --backend sim --policy {policy}"]
        return " ".join([*words, *(f"--set '{one}'" for one in self.overrides)])

    def load(self) -> Experiment:
        """Its experiment, devices and traces drawn."""
        return Experiment.load(ROOT / EXPERIMENT, self.overrides)

    @property
    def columns(self) -> Row:
        """What tells its rows from others."""
        return self._asdict()


def observations(experiment: Experiment) -> list[Observation]:
    """What a policy is shown at each decision; the same for all, whatever they decide."""
    conditions = Conditions(experiment)
    conditions.begin()
    assert experiment.prompt_tokens is not None
    found = []
    for boundary, done in enumerate(range(0, experiment.tokens, experiment.interval)):
        if done:
            conditions.advance(float(done), boundary)
        found.append(observe(experiment, conditions, experiment.prompt_tokens, done, NOMINAL_HOP_S))
        conditions.enforce(boundary, True)
    return found


def messages(observation: Observation, placement: Placement) -> int:
    """How many messages between devices one decoded token takes."""
    plan = make_plan(observation, placement)
    halves = [half for layer in plan.layers for half in (layer.attention, layer.ffn)]
    inside = sum(len(half.x_order) + sum(device != half.target for device in half.work) for half in halves)
    return inside + (plan.holder(len(plan.layers)) != plan.source)


class _Exact:
    """`exact` for the decisions of one instance; all first ones are the same, and so are those that share a past."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, str], tuple[Solution, float]] = {}

    def beside(
        self, number: int, seen: Observation, old: Placement | None, new: Placement | None
    ) -> tuple[Solution, float]:
        """(the optimum, CPU seconds it took); `new` is a placement to begin with."""
        key = number, "" if old is None else str(sorted((str(block), at) for block, at in old.devices.items()))
        if key not in self._found:
            started = time.process_time()
            solution = optimum(seen, old, limit_s=LIMIT_S, starts=() if new is None else (new,))
            self._found[key] = solution, time.process_time() - started
        return self._found[key]


def rows_of(instance: Instance, policies: Sequence[str]) -> list[Row]:
    """What comes of these policies on one instance: a row for each decision, or for each whole run."""
    seen = observations(instance.load())
    if instance.setting == WHOLE_RUN:
        _, least_s = best_run(seen)
        return [_run(instance, name, seen, least_s) for name in policies]
    exact = _Exact()
    return [row for name in policies if name != "exact" for row in _decisions(instance, name, seen, exact)]


def _decisions(instance: Instance, name: str, seen: list[Observation], exact: _Exact) -> Iterator[Row]:
    """A row for each decision of a policy, as far as its placements fit."""
    policy = make_policy(*VARIANTS.get(name, (name, {})))
    policy.reset(instance.seed)
    old: Placement | None = None
    for number, observation in enumerate(seen):
        row = instance.columns | {"policy": name, "decision": number}
        started = time.process_time()
        try:
            wanted: Placement | None = policy.decide(observation, old)
            reason = ""
        except Infeasible as error:
            wanted, reason = None, str(error)
        row["decision_s"] = time.process_time() - started
        fits = wanted is not None and not shortages(observation, old, wanted)
        best, row["exact_decision_s"] = exact.beside(number, observation, old, wanted if fits else None)
        row["status"] = DECIDED if fits else OVERFULL if wanted is not None else REFUSED
        row["reason"] = reason
        row["exact_s"] = best.cost_s if math.isfinite(best.cost_s) else None
        row["bound_s"] = best.bound_s if math.isfinite(best.bound_s) else None
        row["proved"] = best.proved or best.bound_s == math.inf
        row["cost_s"] = decision_cost(observation, old, wanted) if fits and wanted is not None else None
        row["messages"] = messages(observation, wanted) if fits and wanted is not None else None
        row["exact_messages"] = messages(observation, best.placement) if best.placement is not None else None
        row["moved_blocks"] = len(old.moves_to(wanted)) if fits and old is not None and wanted is not None else None
        yield row
        if fits:
            old = wanted
        elif old is None or shortages(observation, None, old):
            return  # nothing is placed, or what is placed runs out of memory


def _run(instance: Instance, name: str, seen: list[Observation], least_s: float) -> Row:
    """What the whole run costs a policy, beside the least that it can cost."""
    policy = make_policy(*VARIANTS.get(name, (name, {})))
    policy.reset(instance.seed)
    old: Placement | None = None
    cost_s, status, reason = 0.0, DECIDED, ""
    for observation in seen:
        try:
            new: Placement | None = policy.decide(observation, old)
        except Infeasible as error:
            new, reason = old, str(error)
        if new is None or shortages(observation, old, new):
            status = REFUSED if new is None else OVERFULL
            break
        cost_s += decision_cost(observation, old, new)
        old = new
    least = least_s if math.isfinite(least_s) else None
    row = instance.columns | {"policy": name, "decision": None, "status": status, "reason": reason, "proved": True}
    return row | {"exact_s": least, "bound_s": least, "cost_s": cost_s if status == DECIDED else None}
