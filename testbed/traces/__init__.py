"""Traces: how link rates and device resources change during a run, step by step.

`model` holds the data and its rules, one file per format reads it (`native`, `mahimahi`, `pensieve`,
`irish5g`; `formats` chooses), `generate` makes it from a seed, `bundled` is what ships in `data/`, and
`summary` says in numbers what a trace holds. The package knows neither topologies nor experiments, and
not whether its time axis counts seconds or tokens: that is the experiment's `trace_clock`.
"""

from testbed.traces.model import Change, Trace, TraceSet
from testbed.traces.series import EndRule
from testbed.traces.summary import SeriesSummary, summarise

__all__ = ["Change", "EndRule", "SeriesSummary", "Trace", "TraceSet", "summarise"]
