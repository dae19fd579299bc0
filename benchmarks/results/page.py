"""Write docs/results.md and its figures from docs/results/: `script/results [--collect [NAME…]]`.

Each section is `section(frame, how) -> str` of the module named like its data, which also draws its figures. It may
also have `claims(frame, how) -> list[Claim]`: what it says of claims of the paper, for the table at the top.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from benchmarks.results import store

NAMES = ("gaps", "scale", "migration", "regimes", "sensitivity", "prediction")
PAGE = store.ROOT / "docs" / "results.md"


def module(name: str) -> ModuleType:
    """The module of one question."""
    return importlib.import_module(f"benchmarks.results.{name}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Collect what is asked for, then write the page."""
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
    print(write())


def write() -> Path:
    """Write the page from the data that are there; returns its file."""
    PAGE.write_text(text(), encoding="utf-8")
    return PAGE


def text() -> str:
    """The whole page; draws the figures too."""
    sections = []
    for name in NAMES:
        frame, how = store.load(name)
        sections.append(module(name).section(frame, how).strip())
    return "\n\n".join(["# Results", *sections]) + "\n"


if __name__ == "__main__":
    main()
