"""Whether some placement fits at every moment of a run, while KV caches grow and traces change the devices' memory.

This module knows what must fit when. `placement.cost.memory.nothing_fits` answers whether any placement can: where it
says no, every policy fails, whatever its blocks were placed on before.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby

from testbed.experiment.schema import Experiment
from testbed.placement.cost.memory import nothing_fits
from testbed.placement.observation import Observation
from testbed.running.first_observation import first_observation
from testbed.traces.series import Series

MOST_MOMENTS = 1000  # changes of memory on the time clock that are looked at


def memory_changes(experiment: Experiment) -> dict[str, Series]:
    """Return the memory budget over time of each device whose budget changes during the run."""
    found = {}
    for trace in experiment.traces.traces:
        for (target, quantity), series in trace.series.items():
            if quantity == "memory":
                change = series.next_change_after(0.0)
                over = experiment.trace_clock == "token" and (change or 0.0) > _last_boundary(experiment)
                if change is not None and not over:
                    found[target.removeprefix("device/")] = series
    return found


def why_last_token_never_fits(experiment: Experiment, prompt_tokens: int) -> str | None:
    """Return why no placement can hold the caches of the last token.

    Returns None if one can, and if traces change memory: `shortage_ahead` answers for those.
    """
    if memory_changes(experiment):
        return None
    return nothing_fits(first_observation(experiment, prompt_tokens), prompt_tokens + experiment.tokens - 1)


def shortage_ahead(experiment: Experiment, prompt_tokens: int) -> str | None:
    """Return from when on no placement can fit because traces take memory away, as a sentence; else None."""
    changing = memory_changes(experiment)
    if not changing:
        return None
    start = first_observation(experiment, prompt_tokens)
    if experiment.trace_clock == "token":
        return _by_tokens(experiment, start, changing)
    return _in_time(experiment, start, changing)


def told_of_many(found: Mapping[str, str], instances: int) -> str:
    """Put what `shortage_ahead` says of several instances, by their names, into one sentence; it quotes the first."""
    name, why = next(iter(found.items()))
    if len(found) == 1:
        return f"{name}: {why}"
    return f"in {len(found)} of {instances} there comes a time when nothing fits; {name}: {why}"


def _last_boundary(experiment: Experiment) -> int:
    """Return how many tokens are done at the last decision."""
    return (experiment.tokens - 1) // experiment.interval * experiment.interval


def _by_tokens(experiment: Experiment, start: Observation, changing: Mapping[str, Series]) -> str | None:
    """Find the first decision at which nothing fits.

    Between two changes of memory only the caches grow, so the last decision before each change is the tightest.
    """
    decisions = range(0, experiment.tokens, experiment.interval)
    for _, group in groupby(decisions, lambda done: _memory(experiment, changing, done)):
        alike = list(group)
        seen = _with_memory(start, _memory(experiment, changing, alike[0]))

        def why(done: int, seen: Observation = seen) -> str | None:
            return nothing_fits(replace(seen, tokens_done=done))

        if why(alike[-1]):
            done = alike[bisect_left(alike, True, key=lambda done: why(done) is not None)]
            return f"after {done} of {experiment.tokens} tokens no placement can fit: {why(done)}"
    return None


def _in_time(experiment: Experiment, start: Observation, changing: Mapping[str, Series]) -> str | None:
    """Find a time at which nothing fits, without knowing how many tokens are done at any time.

    Three things can be said all the same: the last token never fits, however fast the run is; the first one already
    does not fit at some time; or a run that is still going after the last change will not fit.
    """
    last_length = start.prompt_tokens + experiment.tokens - 1
    own = {device.name: device.memory_bytes for device in experiment.topology.devices}
    most = {
        name: max(own[name] if value is None else int(value) for _, value in _steps(series))
        for name, series in changing.items()
    }
    why = nothing_fits(_with_memory(start, most), last_length)
    if why:
        return f"no placement can last to the last token, even with the most memory that the traces ever give: {why}"
    times = sorted({time for series in changing.values() for time, _ in _steps(series)})
    for time in times[:MOST_MOMENTS]:
        why = nothing_fits(_with_memory(start, _memory(experiment, changing, time)))
        if why:
            return f"{time:g} s after the first token no placement can fit: {why}"
    if all(series.period is None for series in changing.values()):
        why = nothing_fits(_with_memory(start, _memory(experiment, changing, times[-1])), last_length)
        if why:
            return f"a run of over {times[-1]:g} s has no placement that lasts to the last token: {why}"
    return None


def _steps(series: Series) -> list[tuple[float, float | None]]:
    """Return the steps of one lap of a series, preceded by the value in force before the first."""
    return [(0.0, series.value_at(0.0)), *series.steps]


def _memory(experiment: Experiment, changing: Mapping[str, Series], time: float) -> dict[str, int]:
    """Return the budgets in bytes at a time, of the devices whose budgets change."""
    found = {}
    for name, series in changing.items():
        value = series.value_at(time)
        found[name] = experiment.topology.device(name).memory_bytes if value is None else int(value)
    return found


def _with_memory(start: Observation, memory: Mapping[str, int]) -> Observation:
    devices = (replace(view, available_bytes=memory.get(view.name, view.available_bytes)) for view in start.devices)
    return replace(start, devices=tuple(devices))
