"""Figures in the quality of a paper: each function takes runs and returns a matplotlib `Figure`.

`token_latency`, `latency_ecdf`, `predicted_vs_measured` and `downtime` compare runs. `memory`, `placement_map`,
`link_rates`, `estimates`, `link_delays` and `recoveries` show one run. They do not touch the global state of
matplotlib: they use no pyplot and choose no backend. To add a figure, write such a function and add it to the lists in
`save` and here.
"""

from testbed.analysis.plots.heads import placement_map
from testbed.analysis.plots.latency import latency_ecdf, token_latency
from testbed.analysis.plots.ledger import memory
from testbed.analysis.plots.links import link_rates
from testbed.analysis.plots.prediction import predicted_vs_measured
from testbed.analysis.plots.recovering import downtime, recoveries
from testbed.analysis.plots.save import FIGURES, TABLES_OF_ALL, count_figures, save_all, save_figure
from testbed.analysis.plots.seen import estimates, link_delays
from testbed.analysis.plots.style import MOST_LINES, run_names

__all__ = [
    "FIGURES",
    "MOST_LINES",
    "TABLES_OF_ALL",
    "count_figures",
    "downtime",
    "estimates",
    "latency_ecdf",
    "link_delays",
    "link_rates",
    "memory",
    "placement_map",
    "predicted_vs_measured",
    "recoveries",
    "run_names",
    "save_all",
    "save_figure",
    "token_latency",
]
