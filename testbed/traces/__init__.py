"""Traces: how link rates and device resources change during a run, step by step.

`model` holds a trace and its rules. Each format has a module that reads it (`native`, `mahimahi`, `pensieve`, `hsdpa`,
`sabre`, and `logs` for CSV files), and `formats` chooses among them. `generate` and `fluctuation` make traces from a
seed, `bundled` lists the traces in `traces/data/`, and `summary` computes figures of a trace. The package knows neither
topologies nor experiments. It does not know either whether times are seconds or tokens: the experiment's `trace_clock`
says so.
"""

from testbed.traces.model import Trace, TraceSet
from testbed.traces.recording import Change
from testbed.traces.series import EndRule
from testbed.traces.summary import SeriesSummary, summarise

__all__ = ["Change", "EndRule", "SeriesSummary", "Trace", "TraceSet", "summarise"]
