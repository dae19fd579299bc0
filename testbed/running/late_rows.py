"""Rows of traces that act later than they say, or never.

On the token clock a change waits for the next decision. A row at token 30 acts at token 32 if decisions come every 8
tokens. That is how the clock is meant (docs/adr/0002), but who wrote 30 should hear of it.
"""

from __future__ import annotations

import math

from testbed.experiment.schema import Experiment
from testbed.traces.quantities import STRIKES


def rows_that_wait(experiment: Experiment) -> str | None:
    """Return a sentence about the rows that act later than they say; None if there are none.

    Rows count once for each moment of a trace, whatever they change then. Kills and restarts do not wait.
    """
    if experiment.trace_clock != "token":
        return None
    waiting = [
        (trace.name, time, acts)
        for trace in experiment.traces.traces
        for time in sorted({change.time_s for change in trace.changes if change.quantity not in STRIKES})
        if (acts := math.ceil(time / experiment.interval) * experiment.interval) != time and time < experiment.tokens
    ]
    if not waiting:
        return None
    name, time, acts = waiting[0]
    told = f"the row of trace {name} at token {time:g} "
    if acts < experiment.tokens:
        told += f"acts at token {acts}, because decisions come every {experiment.interval} tokens (interval)"
    else:
        told += f"never acts, because the last decision is before token {acts}, and the run has {experiment.tokens}"
    more = len(waiting) - 1
    return told + (f"; {more} more {'row waits' if more == 1 else 'rows wait'}, too" if more else "")
