"""Finds where cutting layers pays: every policy on a grid of models, fleets and networks, static and under traces.

`python -m benchmarks.results.regimes` computes the missing parts in an order in which any first part is a fair sample.
`--cell N` prints the experiment of a cell, and `--traced N SEED` one under traces, to be replayed with `testbed`.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterable

import pandas as pd

from benchmarks.results import grid, store, traced
from benchmarks.results.cells import (
    DELAYS_MS,
    DEVICES,
    FFN_SHARDS,
    GRID,
    RATES_MBPS,
    SHAPES,
    STREAMING_GBPS,
    TIGHT,
    TOKENS,
    experiment_of,
)
from benchmarks.results.grid import GAIN
from benchmarks.results.paired import named, prose
from benchmarks.results.rows import Work
from testbed.controller.calibration import NOMINAL_HOP_S
from testbed.placement.policies import make_policy

NAME = "regimes"


def work(parts: store.Parts) -> list[Work]:
    """All parts; cells and runs under traces take turns."""
    groups = itertools.zip_longest(grid.work(parts), traced.work(), fillvalue=())
    return [one for pair in groups for group in pair for one in group]


def collect(parts: store.Parts, stop_after_s: float | None) -> None:
    """Compute the missing parts in order until the time is up."""
    started, wanted = time.monotonic(), work(parts)
    make_policy("headroom", {}).reset(0)  # compiles the search if needed
    with store.bar(len(wanted), NAME) as told:
        for number, one in enumerate(wanted):
            if parts.find(one.key) is None:
                if stop_after_s is not None and time.monotonic() - started > stop_after_s:
                    return
                begun = time.process_time()
                rows = list(one.compute())
                parts.put(one.key, rows, time.process_time() - begun)
            told(number + 1)


def save(parts: store.Parts) -> None:
    """Write the table from the finished parts."""
    cells, runs = grid.table(parts), traced.table(parts)
    kinds = {"cell": cells, "traced": runs}
    frame = pd.concat([one.assign(part=kind) for kind, one in kinds.items() if len(one)], ignore_index=True)
    notes = [
        f"{cells.cell.nunique()} of the grid's {len(GRID)} cells, drawn without looking, and "
        f"{runs.seed.nunique()} of {len(traced.SEEDS)} seeds under traces",
        f"{NOMINAL_HOP_S * 1e3:g} ms of software for a hop",
    ]
    store.save(NAME, frame, store.how_obtained(
        f"python -m benchmarks.results.{NAME}", "predicted", parts.seconds(),
        sorted({*cells.seed.tolist(), *runs.seed.tolist()}), notes,
        commit=parts.commits(), cells_in_grid=len(GRID),
    ))  # fmt: skip


def main() -> None:
    """Compute the missing parts and save the table."""
    parser = store.arguments(NAME, __doc__)
    parser.add_argument("--cell", type=int, metavar="N", help="print one cell's experiment and do nothing else")
    parser.add_argument("--traced", type=int, nargs=2, metavar=("N", "SEED"), help="the same of one under traces")
    options = parser.parse_args()
    if options.cell is not None:
        if not 0 <= options.cell < len(GRID):
            parser.error(f"--cell is {options.cell}, and cells are 0 to {len(GRID) - 1}")
        print(json.dumps(experiment_of(options.cell), indent=2))  # JSON is YAML
    elif options.traced is not None:
        print(json.dumps(traced.traced_experiment(*options.traced), indent=2))
    else:
        parts = store.Parts(options.parts)
        collect(parts, options.seconds)
        save(parts)


# --- the page --------------------------------------------------------------------------------------------------


def section(frame: pd.DataFrame, how: store.How) -> str:
    """The section of the page on where cutting layers pays."""
    from benchmarks.results import regime_map, regime_tables
    from benchmarks.results.drawing import image

    cells = regime_tables.cells_of(frame)
    regime_map.draw(NAME, cells)
    text = [
        "## Regimes: where does cutting layers pay?",
        prose(f"""A grid of {how["cells_in_grid"]} cells: the shapes of {named(SHAPES)};
            {named(_words(DEVICES))} devices; links of {named(_words(RATES_MBPS))} Mbit/s,
            each with a one-way delay of {named(_words(DELAYS_MS))} ms
            (a path has two links); devices that read memory at {named(_words(STREAMING_GBPS))} GB/s in the median;
            memory for the whole model on every device (*loose*) or {TIGHT.replace(" x ", " times the ")} on all
            together (*tight*); a short context of 128 tokens or a long one (900, for TinyLlama 1900); three seeds.
            FFNs are cut into {FFN_SHARDS} shards for all policies; times include the LM head; {TOKENS} tokens. Of
            these cells {len(cells)} were computed, in an order that was drawn at random;
            `python -m benchmarks.results.{NAME} --cell N` prints cell N's experiment, for `testbed replay`."""),
        image(NAME, "Map: time of the best whole layers over headroom's, by delay, link rate and memory speed"),
        prose(f"""Each number is the time of the best placement of whole layers (the best of `layerwise`, `edgeshard`
            and `single`, FFNs cut or whole) over that of `headroom`, as the geometric mean over the cells there; `-`
            where none was computed or no whole layers fit. Red lines: {GAIN:g}."""),
        "**Where the gain comes from.**",
        regime_tables.causes(cells),
        prose(f"""A gain counts if it is at least {GAIN - 1:.0%}; shares are of all cells in the row. *Heads*: the gain
            comes from cutting heads alone, with whole FFNs. *FFN shards*: it needs these, too. *Packing*: if every
            device had memory for the whole model, the gain would be below {GAIN - 1:.0%}; so it comes from filling the
            fast devices completely, and not from several devices computing at once."""),
        "**Is headroom the best on every side of the borders?**",
        regime_tables.against_others(cells),
        regime_tables.policies(cells),
        prose("""Each policy's time over the best of all in its cell, of the cells where it found a placement."""),
        "**The best of each class.**",
        regime_tables.classes(cells),
        prose("""Times over the best placement found of any class, as geometric means. Those of single devices and
            whole layers are optima (`layerwise` solves the first placement exactly). Those of the other two classes
            are the best that `headroom`'s search found, so their optima may be a little lower; the gaps above say by
            how much, where `exact` can tell."""),
        "**Under traces.**",
        regime_tables.traced(frame),
        regime_tables.endings(frame),
        prose(f"""Links and speeds fluctuate, and in tight settings free memory too; {traced.TOKENS} tokens, a decision
            every {traced.INTERVAL}. The ratio compares `headroom` with the policy that comes closest among those that
            finished most often. It is a mean over paired seeds with its 95 % interval; the worst seed is beside it.
            `--traced N SEED` prints an experiment."""),
        store.obtained(how),
    ]  # fmt: skip
    return "\n\n".join(part for part in text if part)


def _words(values: Iterable[float]) -> list[str]:
    return [f"{value:g}" for value in values]


if __name__ == "__main__":
    main()
