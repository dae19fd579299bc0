"""Writes docs/results.md, docs/validation.md, their figures, and tables of other pages, for `script/results`.

The module with the name of the data has `section(frame, how) -> str`, which also draws the figures. The table of claims
at the top of the page comes from `claims`.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from benchmarks.results import claims, prediction, store, validation

NAMES = (
    "small", "medium", "worth", "migration", "gaps", "scale", "regimes", "sensitivity", "prediction", "emulated",
    "observed", "observed_emulated", "recovery",
)  # fmt: skip
PAGE = store.ROOT / "docs" / "results.md"

INTRODUCTION = """# Results

Which placement is fastest when a language model is cut at its attention heads, and when is a head worth moving? The
method under test is that of Kafetzis, Khalili and Koutsopoulos, [arXiv 2505.02533](https://arxiv.org/abs/2505.02533).
It appears here as two policies: `paper` is the method as it is written, and `paper-search` adds a local search of
ours. `headroom` is our own policy. All policies see the same observations, are charged by the same cost model and meet
the same instances ([what each does](policies.md)). Runs that were refused or ran out of memory are counted, never
dropped.

`script/results` writes this page from the data in `docs/results`; no figure is typed by hand. A line at the end of each
section says which command and commit made its data. [The artifact](artifact.md) says how to repeat it, and
`docs/results/recompute.py` recomputes numbers of the page, drawn at random, by other code.

## What the paper says, and what we found"""

SETTINGS = """The settings:

- *paper's*: one decoder layer, compute-bound devices, fast links, weights sent over the network, plentiful memory, and
  the paper's own formula of a token's delay (`paper-small.yaml`, `paper-medium.yaml`).
- *honest*: whole models in 8 bits on devices that together hold 1.4 times what the model needs, and our [cost
  model](cost-model.md), which charges memory traffic and the links' queues (`honest-small.yaml`, `honest-medium.yaml`).
- *roomy*: the honest one with 4 times what the model needs.
- *with notice*, *unannounced*, *links only*: GPT-2 on drawn fleets of 4, 8 and 25 devices with 1.4 times what it needs;
  either memory shrinks, or only links change ([how](#migrations-worth-against-the-best-placement-that-never-moves))."""

READING = """A verdict comes from the 95 % interval of its figure. *Reproduced*: the whole interval is on the claim's
side of the border. *Not reproduced*: it is on the other side, for at least one rival. *Undecided*: it contains the
border. The border is 1.20 for claim 1, 1 for claims 2 and 4, 9 for claim 3, 0 for claim 5 and for numbers of finished
runs, and 1.15 for claim 6. *It* is the policy in the heading. Figures are means over paired instances, or over fleets;
*pairs* says how many finished under both, if not all did. A figure over fewer than 20 pairs is shown but not judged.
The command makes the data, and `script/results` then makes the figure.

The first table sums up the rows of claim 1 against `exact`, of claims 2 and 3 with free deciding, of claim 4 on the
fullest device and on finished runs, and of claim 5 with 1.4 x model: there by finished runs, where some did not finish.

**Deciding** is free unless a row says *charged*. Its time was measured on a host with two cores that ran two such
simulations at a time and nothing else; [benchmarks](benchmarks.md) times single decisions.

Sections without a row in this table are not judged. Some of their figures rest on fewer than 20 seeds, as they say,
and some were made by earlier versions of the program, as their last lines say.

**Foresight.** Policies see the true rates and memory of the moment. Where memory shrinks *with notice*, they know it
before it must be free. [Observed](#observed-policies-that-see-only-what-a-run-shows) has policies that see less.

**Not looked at:** batches of several requests, offloading to disk, energy, packet loss, other models than the GPT-2
and Llama families. Weights are random: time and memory are a real model's, the text is not."""


def module(name: str) -> ModuleType:
    """The module of a result."""
    return importlib.import_module(f"benchmarks.results.{name}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Collect the requested results, and then write the page."""
    parser = argparse.ArgumentParser(prog="script/results", description=__doc__)
    parser.add_argument("--collect", nargs="*", metavar="NAME",
                        help=f"collect these first (none named: all): {', '.join(NAMES)}")  # fmt: skip
    options = parser.parse_args(arguments)
    if options.collect is not None:
        unknown = set(options.collect) - set(NAMES)
        if unknown:
            parser.error(f"no such result: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
        for name in options.collect or NAMES:
            subprocess.run([sys.executable, "-m", f"benchmarks.results.{name}"], cwd=store.ROOT, check=True)
    try:
        print(write())
    except FileNotFoundError as error:
        parser.error(str(error))


def write() -> Path:
    """Write the page and the tables of other pages from the present data; returns the page's file."""
    page, tables = text(), tables_elsewhere()  # if data are missing, nothing is written
    PAGE.write_text(page, encoding="utf-8")
    for file, table in tables.items():
        put_table(file, table)
    validation.write()
    return PAGE


def tables_elsewhere() -> dict[Path, str]:
    """The tables of other pages that come from the data."""
    twin = prediction.twin_table(store.load(prediction.NAME)[0])
    readme = claims.readme_table(claims.all_rows())
    return {store.ROOT / "README.md": readme, store.ROOT / "docs" / "twin.md": twin}


def put_table(file: Path, table: str) -> None:
    """Replace the table with the same headings."""
    page, heading = file.read_text(encoding="utf-8"), table.partition("\n")[0]
    before, found, after = page.partition(heading + "\n")
    if not found:
        raise ValueError(f"{file} has no table with the headings {heading}")
    file.write_text(before + table + "\n\n" + after.partition("\n\n")[2], encoding="utf-8")


def text() -> str:
    """The text of the page; also draws the figures."""
    sections = [module(name).section(*store.load(name)).strip() for name in collected()]
    rows = claims.all_rows()
    claimed = [claims.verdicts_table(rows), SETTINGS, "The figures behind it:", claims.figures_table(rows), READING]
    return "\n\n".join([INTRODUCTION, *claimed, *sections]) + "\n"


def collected() -> list[str]:
    """The results that have data, in the order of the page."""
    return [name for name in NAMES if (store.DATA / f"{name}.parquet").exists()]


if __name__ == "__main__":
    main()
