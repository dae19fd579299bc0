"""Loads runs into DataFrames and computes metrics, figures and a short report.

`load(path)` and `load_many(paths)` return `Run`s; `analysis.metrics`, `analysis.plots` and `analysis.report` work on
them. Of the rest of the testbed, this room knows only the format of run folders.
"""

from testbed.analysis.load import AnalysisError, Run, load, load_many, run_folders, with_changes

__all__ = ["AnalysisError", "Run", "load", "load_many", "run_folders", "with_changes"]
