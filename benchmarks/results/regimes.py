"""Where cutting layers pays: every policy on a grid of models, fleets and networks, static and under traces.

`python -m benchmarks.results.regimes` computes what is missing, the cells in an order of which any beginning is a fair
sample. `--cell N` prints the experiment of one cell, and `--traced N SEED` one under traces, to replay with `testbed`.
`--emulated` runs a dozen cells on Mininet (root, a quiet host).
"""

from __future__ import annotations

import itertools
import json
import time

import pandas as pd

from benchmarks.results import grid, store, traced
from benchmarks.results.cells import GRID, experiment_of
from benchmarks.results.rows import Work
from testbed.calibration import NOMINAL_HOP_S
from testbed.placement.policies import make_policy

NAME = "regimes"


def work() -> list[Work]:
    """All parts, cells and traced runs in turn."""
    groups = itertools.zip_longest(grid.work(), traced.work(), fillvalue=())
    return [one for pair in groups for group in pair for one in group]


def collect(parts: store.Parts, stop_after_s: float | None) -> bool:
    """Compute the parts that are not there yet, in order, until the time is up; True when all are there."""
    started, wanted = time.monotonic(), work()
    make_policy("headroom", {}).reset(0)  # compiles what is not compiled yet
    with store.bar(len(wanted), NAME) as told:
        for number, one in enumerate(wanted):
            if parts.find(one.key) is None:
                if stop_after_s is not None and time.monotonic() - started > stop_after_s:
                    return False
                begun = time.process_time()
                rows = list(one.compute())
                parts.put(one.key, rows, time.process_time() - begun)
            told(number + 1)
    return True


def save(parts: store.Parts) -> None:
    """Write the table from the parts that are there."""
    cells, runs = grid.table(parts), traced.table(parts)
    frame = pd.concat([cells.assign(part="cell"), runs.assign(part="traced")], ignore_index=True)
    notes = [
        f"{cells.cell.nunique()} of the grid's {len(GRID)} cells, drawn without looking, and "
        f"{runs.seed.nunique()} of {len(traced.SEEDS)} seeds under traces",
        f"{NOMINAL_HOP_S * 1e3:g} ms of software for a hop",
    ]
    store.save(NAME, frame, store.how_obtained(
        f"python -m benchmarks.results.{NAME}", "predicted", parts.seconds(),
        sorted({*cells.seed.tolist(), *runs.seed.tolist()}), notes,
        cells_in_grid=len(GRID),
    ))  # fmt: skip


def main() -> None:
    """Compute what is missing and save the table."""
    parser = store.arguments(NAME, __doc__)
    parser.add_argument("--cell", type=int, metavar="N", help="print one cell's experiment and do nothing else")
    parser.add_argument("--traced", type=int, nargs=2, metavar=("N", "SEED"), help="the same of one under traces")
    options = parser.parse_args()
    if options.cell is not None:
        print(json.dumps(experiment_of(options.cell), indent=2))  # JSON is YAML
    elif options.traced is not None:
        print(json.dumps(traced.traced_experiment(*options.traced), indent=2))
    else:
        parts = store.Parts(options.parts)
        if collect(parts, options.seconds) or options.seconds is not None:
            save(parts)


if __name__ == "__main__":
    main()
