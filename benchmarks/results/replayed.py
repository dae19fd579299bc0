"""Compares each decision of each policy with the one of `exact` from the same observation and placement.

The project's own generators draw the instances from `experiments/small-scale.yaml`, so each can be replayed alone
(`Instance.command`).
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
LIMIT_S = 60.0  # wall seconds for one decision of `exact`
ONE_LAYER, FOUR_LAYERS, WHOLE_RUN = "one layer", "four layers", "whole run"
MEMORIES = {"tight": "1.4 x model", "loose": "5 x model"}
# Tight memory also shrinks and grows, so that blocks must move.
SHRINKING = {"generate": "fluctuation", "target": "device/*", "quantity": "memory", "spread": 0.1, "least": 0.8}
# The paper's first placement by scores alone, without the moves that `paper-search` tries afterwards.
SCORES_ALONE = "paper-search, scores alone"
VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {SCORES_ALONE: ("paper-search", {"refine_first": False})}
DECIDED, REFUSED, OVERFULL = "decided", "refused", "does not fit"
Row = dict[str, Any]


class Instance(NamedTuple):
    """An instance whose decisions are compared."""

    setting: str
    devices: int
    memory: str
    ffn_shards: int
    seed: int

    @property
    def key(self) -> str:
        """The file name of this instance."""
        return "-".join(str(part).replace(" ", "_") for part in self)

    @property
    def overrides(self) -> list[str]:
        """The overrides of the experiment in the form of `--set`."""
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
        """The command that replays this instance with a policy."""
        words = [f"testbed replay {EXPERIMENT} --backend sim --policy {policy}"]
        return " ".join([*words, *(f"--set '{one}'" for one in self.overrides)])

    def load(self) -> Experiment:
        """The experiment of this instance with its devices and traces drawn."""
        return Experiment.load(ROOT / EXPERIMENT, self.overrides)

    @property
    def columns(self) -> Row:
        """The columns that identify the rows of this instance."""
        return self._asdict()


def observations(experiment: Experiment) -> list[Observation]:
    """The observation at each decision; it is the same for all policies, whatever they decide."""
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
    """The number of messages between devices for a decode token."""
    plan = make_plan(observation, placement)
    halves = [half for layer in plan.layers for half in (layer.attention, layer.ffn)]
    inside = sum(len(half.x_order) + sum(device != half.target for device in half.work) for half in halves)
    return inside + (plan.holder(len(plan.layers)) != plan.source)


class _Exact:
    """`exact` for the decisions of one instance, with a cache: decisions with the same past have the same optimum."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, str], tuple[Solution, float]] = {}

    def beside(
        self, number: int, seen: Observation, old: Placement | None, new: Placement | None
    ) -> tuple[Solution, float]:
        """The optimum and the CPU seconds it took; the search starts from the placement `new`."""
        key = number, "" if old is None else str(sorted((str(block), at) for block, at in old.devices.items()))
        if key not in self._found:
            started = time.process_time()
            solution = optimum(seen, old, limit_s=LIMIT_S, starts=() if new is None else (new,))
            self._found[key] = solution, time.process_time() - started
        return self._found[key]


def rows_of(instance: Instance, policies: Sequence[str]) -> list[Row]:
    """The rows of these policies on one instance: one for each decision, or one for each whole run."""
    seen = observations(instance.load())
    if instance.setting == WHOLE_RUN:
        _, least_s = best_run(seen)
        return [_run(instance, name, seen, least_s) for name in policies]
    exact = _Exact()
    return [row for name in policies if name != "exact" for row in _decisions(instance, name, seen, exact)]


def _decisions(instance: Instance, name: str, seen: list[Observation], exact: _Exact) -> Iterator[Row]:
    """A row for each decision of a policy until its placement no longer fits."""
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
            return  # there is no placement, or it runs out of memory


def _run(instance: Instance, name: str, seen: list[Observation], least_s: float) -> Row:
    """The cost of the whole run with a policy, and the least possible cost."""
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
