"""Reading runs: DataFrames, metrics, figures and a short report.

`analysis.load(path)` and `analysis.load_many(paths)` give `Run`s; `analysis.metrics`, `analysis.plots` and
`analysis.report` work on them. Of the testbed it knows the run folder's format and nothing else.
"""

from testbed.analysis.load import AnalysisError, Run, load, load_many

__all__ = ["AnalysisError", "Run", "load", "load_many"]
