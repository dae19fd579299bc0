"""Recomputes frozen results and compares them, row by row, for `script/reproduce`.

The smoke level takes the first seeds of each result, the whole level all of them. Simulations and predictions give the
same numbers on every machine, but for rounding; how long deciding took is not compared.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from benchmarks.results import gaps, grid, medium, page, small, store, worth
from benchmarks.results.cells import shuffled
from benchmarks.results.replayed import rows_of as decisions_of

TOLERANCE = 1e-3  # relative; of every figure
SMOKE = 6  # instances of gaps, and cells of regimes, in the smoke level; of the others it is the first seed
Row = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """A part of a result, and whether it belongs to the smoke level."""

    smoke: bool
    about: Row  # columns that all of its rows have
    compute: Callable[[], Iterable[Row]]

    def frozen_in(self, frame: pd.DataFrame) -> bool:
        """Whether there are frozen rows of this part."""
        found = pd.Series(True, index=frame.index)
        for column, value in self.about.items():
            found &= frame[column] == value
        return bool(found.any())


@dataclass(frozen=True)
class Repeat:
    """A result that can be recomputed, and what is compared."""

    name: str
    keys: tuple[str, ...]  # columns that identify a row
    same: tuple[str, ...]  # columns that must be equal
    close: tuple[str, ...]  # columns that must agree within the tolerance
    parts: Callable[[], Iterable[Part]]


def _small() -> Iterator[Part]:
    return (Part(one.seed == 1, one._asdict(), partial(small.rows_of, one)) for one in small.planned())


def _medium() -> Iterator[Part]:
    for one in medium.planned():
        about = {**one.said, "policy": one.policy, "seed": one.seed}
        yield Part(one.seed == 1, about, partial(medium.rows_of, one))


def _worth() -> Iterator[Part]:
    first: dict[Any, Any] = {}
    return (Part(cell.seed == 1, cell._asdict(), partial(worth.rows_of, cell, first)) for cell in worth.planned())


def _gaps() -> Iterator[Part]:
    for number, instance in enumerate(gaps.planned()):
        for group in gaps.GROUPS.values():
            yield Part(number < SMOKE, {}, partial(decisions_of, instance, group))


def _cells() -> Iterator[Part]:
    return (Part(place < SMOKE, {}, partial(_cell, number)) for place, number in enumerate(shuffled()))


def _cell(number: int) -> Iterator[Row]:
    return (row | {"part": "cell"} for row in (*grid.rivals(number), *grid.head(number)))


COST = "mean_token_with_stall_ms"
REPEATS = (
    Repeat("small", ("setting", "devices", "policy", "seed"), ("status", "tokens_done", "migrations"), (COST,), _small),
    Repeat("medium", ("setting", "policy", "seed", "token"), ("status", "tokens_done", "migrations"),
           (COST, "token_ms", "total_bytes"), _medium),
    Repeat("worth", ("devices", "memory", "scenario", "seed", "policy", "reserve"), ("status", "tokens_done", "moved"),
           ("token_ms",), _worth),
    Repeat("gaps", ("setting", "devices", "memory", "ffn_shards", "seed", "policy", "decision"), ("status",),
           ("cost_s", "exact_s"), _gaps),
    Repeat("regimes", ("part", "cell", "policy", "ffn_shards"), ("status",), ("token_ms",), _cells),
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Recompute what is asked for, print a line for each result, and end with 1 if any differs."""
    parser = argparse.ArgumentParser(prog="script/reproduce", description=__doc__)
    parser.add_argument("--whole", action="store_true", help="all seeds: hours, in place of minutes")
    parser.add_argument("--only", metavar="NAME", choices=[one.name for one in REPEATS], help="one result alone")
    options = parser.parse_args(arguments)
    good = page.text() == page.PAGE.read_text(encoding="utf-8")
    print(f"{'docs/results.md':16} {'is what the data say' if good else 'DIFFERS from what the data say'}", flush=True)
    for one in REPEATS:
        if options.only in (None, one.name) and (store.DATA / f"{one.name}.parquet").exists():
            good &= repeat(one, options.whole)
    sys.exit(0 if good else 1)


def repeat(one: Repeat, whole: bool) -> bool:
    """Recompute a result, or its smoke level, and say how far the rows are from the frozen ones."""
    started, frozen = time.monotonic(), store.load(one.name)[0]
    parts = (part for part in one.parts() if (whole or part.smoke) and part.frozen_in(frozen))
    rows = [row for part in parts for row in part.compute()]
    differences = compared(one, pd.DataFrame(rows), frozen)
    took = time.monotonic() - started
    verdict = "agree" if not differences else f"{len(differences)} DIFFER"
    print(f"{one.name:16} {len(rows)} rows within {TOLERANCE:.1%}: {verdict} ({took:.0f} s)", flush=True)
    for text in differences[:10]:
        print(f"    {text}")
    return not differences


def compared(one: Repeat, found: pd.DataFrame, frozen: pd.DataFrame) -> list[str]:
    """What differs between recomputed rows and the frozen ones, in words."""
    keyed = [_keyed(frame, one.keys) for frame in (found, frozen)]
    texts = [f"{key} is not among the frozen rows" for key in keyed[0].keys() - keyed[1].keys()]
    for key in keyed[0].keys() & keyed[1].keys():
        new, old = keyed[0][key], keyed[1][key]
        for column in (*one.same, *one.close):
            tolerance = TOLERANCE if column in one.close else 0.0
            if not _equal(new.get(column), old.get(column), tolerance):
                texts.append(f"{key}: {column} is {new.get(column)}, and was {old.get(column)}")
    return sorted(texts)


def _keyed(frame: pd.DataFrame, keys: Sequence[str]) -> dict[tuple[str, ...], Row]:
    return {tuple(_word(row.get(key)) for key in keys): row for row in frame.to_dict("records")}


def _word(value: object) -> str:
    """A key's value as text; a missing one is the same whether it is None or NaN."""
    if value is None or value is pd.NA or value != value:
        return "-"
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _equal(new: object, old: object, tolerance: float) -> bool:
    words = _word(new), _word(old)
    if "-" in words or not isinstance(new, int | float) or not isinstance(old, int | float):
        return words[0] == words[1]
    return abs(new - old) <= tolerance * max(abs(new), abs(old))


if __name__ == "__main__":
    main()
