"""Writes docs/results.md, docs/validation.md, their figures, and tables of other pages, for `script/results`.

The module with the name of the data has `section(frame, how) -> str`, which also draws the figures. It may have
`claims(frame, how) -> list[Claim]`, which judge claims of the paper for the table at the top of the page.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from benchmarks.results import prediction, store, validation

NAMES = (
    "small", "medium", "worth", "gaps", "scale", "migration", "regimes", "sensitivity", "prediction", "emulated",
)  # fmt: skip
PAGE = store.ROOT / "docs" / "results.md"

INTRODUCTION = """# Results

Which placement is fastest when a language model is cut at its attention heads, and when is a head worth moving? This is
what came out, whatever it is. The method under test is `paper-search`, which these tables call
`resource-aware`, its older name: the scores of Kafetzis, Khalili and Koutsopoulos,
[arXiv 2505.02533](https://arxiv.org/abs/2505.02533), with a search of ours; `headroom` is our own policy.
All policies see the same, are charged by the same [cost model](cost-model.md) and meet the same experiments
([what each does](policies.md)).
Runs that were refused or ran out of memory are counted, never dropped.

This page is written by `script/results` from the data in `docs/results`: for each section a table, and a note
on how it was obtained. `script/results --collect NAME` makes the data anew. No figure here is typed by hand.

## What the paper says, and what we found"""

OUT_OF_SCOPE = """**Not looked at:** batches of several requests, offloading to disk, energy, packet loss, other models
than the GPT-2 and Llama families. The paper's abstract says nothing of how long deciding may take; here it is not
charged ([scale](#scale-25-devices-1000-tokens) says roughly how long, `python -m benchmarks.policy` measures it).
Weights are random: time and memory are a real model's, the text is not.
"""


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
    return {store.ROOT / "README.md": readme(), store.ROOT / "docs" / "twin.md": twin}


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
    rows = ["| the paper | here | figure |", "| --- | --- | --- |"]
    rows += [f"| {claim.claim} | **{claim.verdict}** | {claim.figure} |" for claim in claims()]
    return "\n\n".join([INTRODUCTION, "\n".join(rows), OUT_OF_SCOPE.strip(), *sections]) + "\n"


def claims() -> list[store.Claim]:
    """The claims of the paper and what the data say, in the order of the page."""
    found: list[store.Claim] = []
    for name in collected():
        own = module(name)
        found += own.claims(*store.load(name)) if hasattr(own, "claims") else []
    return found


def readme() -> str:
    """The table under "What we found" in README.md."""
    rows = ["| the paper | what we found |", "| --- | --- |"]
    return "\n".join([*rows, *(f"| {claim.claim} | {claim.verdict} |" for claim in claims())])


def collected() -> list[str]:
    """The results that have data, in the order of the page."""
    return [name for name in NAMES if (store.DATA / f"{name}.parquet").exists()]


if __name__ == "__main__":
    main()
