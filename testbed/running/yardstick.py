"""What simulated runs of a comparison take at least: what `ratio_to_exact` is relative to."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from testbed.controller.calibration import host_calibration
from testbed.controller.conditions import Conditions, observe
from testbed.experiment.prompt import prompt_ids
from testbed.experiment.schema import Experiment
from testbed.placement.observation import Observation
from testbed.runlog.comparison import BOUND, COST, OPTIMUM, Least
from testbed.runlog.summary import MS
from testbed.running.worker_pool import call_in_pool


def least_costs(instances: Mapping[int, Experiment], rows: Sequence[Mapping[str, Any]]) -> dict[int, Least]:
    """What a token of each instance takes at least, migrations included, by seed.

    `instances` has an experiment of each seed, and `rows` the summaries of the simulated runs. Instances whose
    conditions change with the time are left out, because every policy then meets others.
    """
    known: dict[int, float] = {}
    for row in rows:
        if row["status"] == "done" and row.get(COST) is not None:
            known[row["seed"]] = min(known.get(row["seed"], float("inf")), row[COST])
    counted = {seed: known[seed] for seed, one in instances.items() if seed in known and one.trace_clock == "token"}
    calls = [(instances[seed], known_ms) for seed, known_ms in counted.items()]
    if min(len(calls), os.cpu_count() or 1) <= 1:
        return {seed: least_cost(*call) for seed, call in zip(counted, calls, strict=True)}
    seeds, found = list(counted), {}
    with closing(call_in_pool(least_cost, calls)) as ended:
        for place, least in ended:
            found[seeds[place]] = least
    return found


def least_cost(experiment: Experiment, known_ms: float) -> Least:
    """What a token of a run takes at least; `known_ms` is what one takes in a run that has ended."""
    from testbed.placement.whole_run import decoded_lengths, least_run  # loads numpy

    seen = observations(experiment)
    decoded = sum(len(decoded_lengths(one)) for one in seen)
    # A run that kept a placement through a decrease of memory may take less than any that fits.
    shrinking = any(quantity == "memory" for trace in experiment.traces.traces for _, quantity in trace.rows)
    known_s = float("inf") if shrinking else known_ms * decoded / MS
    found = least_run(seen, known_s, experiment.seed)
    ms, best_ms = (seconds / decoded * MS for seconds in (found.seconds, found.best_s))
    return Least(ms, OPTIMUM if found.proved else BOUND, best_ms)


def observations(experiment: Experiment) -> list[Observation]:
    """The observation at each decision of a simulated run; on the token clock it is the same for all policies."""
    conditions = Conditions(experiment)
    conditions.begin()
    prompt = len(prompt_ids(experiment, computed=False))
    hop_s = host_calibration().hop_overhead_s / experiment.dilation
    found = []
    for boundary, done in enumerate(range(0, experiment.tokens, experiment.interval)):
        if done:
            conditions.advance(float(done), boundary)
        found.append(observe(experiment, conditions, prompt, done, hop_s))
        conditions.enforce(boundary, True)
    return found
