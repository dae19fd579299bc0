"""Draws faults of devices as rows of a trace, which the manifest keeps like any other."""

from __future__ import annotations

from random import Random

from testbed.controller.conditions import Conditions, observe
from testbed.experiment.prompt import prompt_ids
from testbed.experiment.schema import Experiment
from testbed.placement.blocks import Placement
from testbed.placement.cost.model import token_latency
from testbed.placement.patterns import expand_patterns
from testbed.placement.plan import make_plan
from testbed.traces.model import Trace, TraceSet
from testbed.traces.quantities import KILL, RESTART, STRIKES
from testbed.traces.recording import Change

PAUSE = "pause"
RETURNS = 0.5  # share of killed devices that are started anew
PAUSED = 0.3  # share of faults on the time clock that are pauses


def with_faults(experiment: Experiment, seed: int) -> Experiment:
    """The experiment with a further trace of faults, drawn from this seed; the source is spared.

    At least one device dies or is paused; of several besides the source, at least one never is. Devices that a trace
    strikes already are left alone. Without a device to strike the experiment stays as it is.
    """
    drawn = Random(f"chaos/{seed}")
    taken = {target for trace in experiment.traces.traces for target, what in trace.rows if what in (*STRIKES, PAUSE)}
    names = [device.name for device in experiment.topology.devices if device.name != experiment.topology.source]
    free = [name for name in names if f"device/{name}" not in taken]
    most = min(len(free), max(1, len(names) - 1))
    if not most:
        return experiment
    end = experiment.tokens if experiment.trace_clock == "token" else experiment.tokens * _token_seconds(experiment)
    changes: list[Change] = []
    for name in drawn.sample(free, drawn.randint(1, most)):
        changes += _faults(drawn, f"device/{name}", end, experiment.trace_clock == "token")
    trace = Trace(tuple(changes), name=f"chaos-{seed}")
    return experiment.model_copy(update={"traces": TraceSet((*experiment.traces.traces, trace))})


def _faults(drawn: Random, target: str, end: float, on_tokens: bool) -> list[Change]:
    """One device's faults before `end`."""
    first, last = sorted(drawn.uniform(0, end) for _ in range(2))
    if on_tokens:
        first, last = float(int(first)), float(int(last))
    elif drawn.random() < PAUSED:
        return [Change(first, target, PAUSE, 1.0), Change(last, target, PAUSE, 0.0)]
    killed = Change(first, target, KILL, 1.0)
    return [killed, Change(last, target, RESTART, 1.0)] if drawn.random() < RETURNS else [killed]


def _token_seconds(experiment: Experiment) -> float:
    """What a token takes at first with all blocks on the source, which says how long a run is."""
    conditions = Conditions(experiment)
    conditions.begin()
    observation = observe(experiment, conditions, len(prompt_ids(experiment)), 0)
    placement = Placement(expand_patterns(observation, {"*": observation.source}))
    return token_latency(observation, make_plan(observation, placement), observation.length)
