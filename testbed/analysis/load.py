"""Loads run folders into DataFrames.

Columns, types and units are those of `testbed.runlog.tables.TABLES`, both for finished runs (Parquet) and for runs that
were cut short (JSON lines). A str column has pandas' type `str`, and a float column is float64 with NaN for null. A
required int or bool column is int64 or bool, and an optional one `Int64` or `boolean`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from html import escape
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from testbed.errors import ConfigError
from testbed.runlog.documents import is_foreign
from testbed.runlog.folder import (
    EVENTS,
    FORMAT,
    TABLES,
    Column,
    find_table,
    is_run_folder,
    read_lines,
    read_manifest,
    read_summary,
)
from testbed.runlog.parquet import arrow_schema, read_parquet

CHUNK_ROWS = 5_000  # of a table of lines converted at a time, because Python's values take ten times the memory
LARGEST = 1e18  # no run reaches this many seconds, bytes, bit/s or FLOP
MESSAGE_CHARACTERS = 200  # the longest quotation of a library's message about a file
MOST_EVENT_FIELDS = 200  # real events have some dozens

# The columns that `events` always has. Each further field of an event has its own column.
EVENT_DTYPES = {
    "wall_s": "float64",
    "t_s": "float64",
    "kind": "str",
    "step": "Int64",
    "device": "str",
    "target": "str",
    "quantity": "str",
    "value": "float64",
}

# What a notebook shows of a summary: heading -> key of the summary, and how its value is written.
NOTEBOOK_FIGURES = {
    "mean token (ms)": ("mean_token_ms", ".2f"),
    "first token (ms)": ("ttft_ms", ".1f"),
    "stall (s)": ("stall_s", ".3f"),
    "deciding (ms)": ("decision_ms", ".1f"),
    "migrations": ("migrations", "d"),
    "prediction error": ("prediction_error", ".1%"),
}


class AnalysisError(ConfigError):
    """The folder is no run folder, or a damaged one."""


@dataclass(frozen=True, eq=False)
class Run:
    """One run: its folder, its documents and its tables.

    Each table is a DataFrame with the columns and units of docs/run-folder.md.
    """

    folder: Path
    manifest: Mapping[str, Any]
    summary: Mapping[str, Any] | None  # None: the run did not end
    events: pd.DataFrame
    tokens: pd.DataFrame
    spans: pd.DataFrame
    decisions: pd.DataFrame
    migrations: pd.DataFrame
    devices: pd.DataFrame
    links: pd.DataFrame
    host: pd.DataFrame
    waits: pd.DataFrame
    placements: pd.DataFrame
    rates: pd.DataFrame
    estimates: pd.DataFrame
    delays: pd.DataFrame
    faults: pd.DataFrame
    recoveries: pd.DataFrame

    def fact(self, key: str, default: Any = None) -> Any:
        """The value of a key: from the summary, else from the manifest, else from the experiment in the manifest."""
        experiment = self.manifest.get("experiment")
        for place in (self.summary, self.manifest, experiment):
            if isinstance(place, Mapping) and place.get(key) is not None:
                return place[key]
        return default

    @property
    def policy(self) -> str:
        """The name of the policy."""
        return str(self.fact("policy", self.folder.name))

    @property
    def status(self) -> str:
        """`done`, `oom`, `failed` or `interrupted`; `unfinished` if there is no summary."""
        return str((self.summary or {}).get("status", "unfinished"))

    @property
    def simulated(self) -> bool:
        """Whether the times come from the cost model and were not measured."""
        return bool(self.fact("provenance") == "simulated")

    @property
    def seed(self) -> int | None:
        """The seed of the experiment, if known."""
        seed = self.fact("seed")
        return None if seed is None else int(seed)

    @property
    def tokens_asked(self) -> int | None:
        """The number of tokens that the experiment asks for, if known."""
        experiment = self.manifest.get("experiment")
        asked = experiment.get("tokens") if isinstance(experiment, Mapping) else None
        return asked if isinstance(asked, int) else None

    @property
    def decoded(self) -> pd.DataFrame:
        """The tokens table without the prefill."""
        return self.tokens[~self.tokens["prefill"]]

    @property
    def verdict(self) -> str:
        """`faithful`, `not faithful`, `simulated`, or `no verdict` for a run that has none."""
        if self.simulated:
            return "simulated"
        verdict = self.fact("verdict")
        if not isinstance(verdict, Mapping):
            return "no verdict"
        return "faithful" if verdict.get("ok") else "not faithful"

    def _repr_html_(self) -> str:
        """The table that a notebook shows; a figure that the summary does not have is a dash."""
        rows = {"policy": self.policy, "backend": str(self.fact("backend", "unknown")), "status": self.status}
        rows["tokens"] = str(len(self.tokens))
        for heading, (key, how) in NOTEBOOK_FIGURES.items():
            value = (self.summary or {}).get(key)
            rows[heading] = "–" if value is None else format(value, how)
        rows |= {"verdict": self.verdict, "folder": str(self.folder)}
        body = "".join(f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in rows.items())
        return f"<table><tbody>{body}</tbody></table>"


def load(path: str | Path, tables: Collection[str] = tuple(TABLES), events: bool | Sequence[str] = True) -> Run:
    """Load the run in a folder, finished or cut short; `testbed.load_run` is this function.

    Its tables are DataFrames in seconds, bytes and bit/s of emulated time (docs/run-folder.md has every column).

    Args:
        path: The folder that the run left, such as `runs/20260101T000000Z-quickstart-static`.
        tables: The tables that are read; the others stay empty. By default all are read.
        events: Whether the events are read, or the kinds of those that are.

    Raises:
        AnalysisError: The folder is no run folder, damaged, or of a newer format. It is a `ConfigError`.

    Example:
        >>> testbed.load_run(run.folder).tokens["latency_s"].mean()
    """
    folder = Path(path)
    if not is_run_folder(folder):
        what = "it is a file" if folder.exists() else "no such folder"
        what = "it has no manifest.json" if folder.is_dir() else what
        raise AnalysisError(f"{folder} is no run folder: {what}; give a folder that `testbed replay` made")
    try:
        manifest = read_manifest(folder)
        older = manifest.get("format", 0) < FORMAT
        return Run(
            folder=folder,
            manifest=manifest,
            summary=read_summary(folder),
            events=_load_events(folder / EVENTS, events),
            **{table: _load_table(folder, table, older) if table in tables else _empty(table) for table in TABLES},
        )
    except AnalysisError:
        raise
    except ConfigError as problem:
        raise AnalysisError(str(problem)) from None


def load_many(paths: str | Path | Iterable[str | Path]) -> list[Run]:
    """The runs of `run_folders`; raises AnalysisError as `load` does, too."""
    return [load(folder) for folder in run_folders(paths)]


def with_changes(runs: Sequence[Run]) -> list[Run]:
    """Runs that were loaded without events, of which the longest has them now: it met all changes that they share."""
    longest = max(runs, key=lambda run: len(run.tokens))
    events = _load_events(longest.folder / EVENTS)
    return [replace(run, events=events) if run is longest else run for run in runs]


def run_folders(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """The run folders among these folders and in them, in the given order and by name within a folder.

    A path that is no folder is returned too, so that `load` says what is wrong with it. Raises AnalysisError for a
    folder that holds no run.
    """
    found: list[Path] = []
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        folder = Path(path)
        if is_run_folder(folder) or not folder.is_dir():
            found.append(folder)
            continue
        inside = sorted(child for child in folder.iterdir() if is_run_folder(child) and not is_foreign(child))
        if not inside:
            raise AnalysisError(f"{folder} is no run folder and holds none: give a folder that `testbed replay` made")
        found += inside
    return found


def _load_table(folder: Path, table: str, older: bool) -> pd.DataFrame:
    """One table of a run; a column that no row of an `older` folder has is empty, else it may be an error."""
    path = find_table(folder, table)
    if path is None:
        return _empty(table)
    try:
        content = _arrow_table(path, table)
        columns = [_made_optional(column, content) if older else column for column in TABLES[table]]
        for column in columns:
            _refuse_values(content[column.name], column, f"{path}: column {column.name}")
        return _frame(content, columns)
    except AnalysisError:
        raise
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as problem:
        if not path.exists():  # the run has just finished and replaced its lines by Parquet
            return _load_table(folder, table, older)
        reason = " ".join(str(problem).split())[:MESSAGE_CHARACTERS]
        raise AnalysisError(f"{path} does not hold the columns of table {table}: {reason}") from None


_PANDAS_TYPES = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}  # of columns that may be null
_PLAIN_TYPES = {"int": "int64", "bool": "bool"}  # of columns that must not be


def _empty(table: str) -> pd.DataFrame:
    return _empty_once(table).copy()


@lru_cache(maxsize=len(TABLES))
def _empty_once(table: str) -> pd.DataFrame:
    return _frame(arrow_schema(table).empty_table(), TABLES[table])


def _frame(content: pa.Table, columns: Iterable[Column]) -> pd.DataFrame:
    """The table with pandas' types; raises ValueError if a required number is null."""
    frame: pd.DataFrame = content.to_pandas(types_mapper=_PANDAS_TYPES.get)
    for column in columns:
        if column.required and column.dtype in _PLAIN_TYPES:  # column by column, which takes half the time of `astype`
            frame[column.name] = frame[column.name].to_numpy(_PLAIN_TYPES[column.dtype])
    return frame


def _made_optional(column: Column, content: pa.Table) -> Column:
    """The column as one that may be null, if no row has a value in it."""
    missing = len(content) > 0 and content[column.name].null_count == len(content)
    return replace(column, required=False) if missing else column


def _arrow_table(path: Path, table: str) -> pa.Table:
    schema = arrow_schema(table)
    if path.suffix == ".jsonl":
        lines = read_lines(path)
        chunks = iter(lambda: list(islice(lines, CHUNK_ROWS)), [])
        return pa.Table.from_batches((pa.RecordBatch.from_pylist(chunk, schema=schema) for chunk in chunks), schema)
    stored = read_parquet(path)
    for name in set(schema.names) - set(stored.column_names):  # the folder is older than the column
        stored = stored.append_column(name, pa.nulls(len(stored), schema.field(name).type))
    stored = stored.select(schema.names)
    return stored if stored.schema.equals(schema) else stored.cast(schema)


def _refuse_values(values: pa.ChunkedArray, column: Column, where: str) -> None:
    """Raise AnalysisError for values that no run can have."""
    if column.dtype == "str":
        if column.required and values.null_count:
            raise AnalysisError(f"{where} lacks a value")
        for value in values.unique().to_pylist() if column.choices else ():
            if value is not None and value not in column.choices:
                raise AnalysisError(f"{where} holds {value[:40]!r}, which is none of {', '.join(column.choices)}")
    elif column.dtype != "bool":
        for value in pc.min_max(values).as_py().values():
            if value is not None and abs(value) > LARGEST:
                raise AnalysisError(f"{where} holds {value}, which is out of all proportion")


def _load_events(path: Path, wanted: bool | Sequence[str] = True) -> pd.DataFrame:
    kinds = () if isinstance(wanted, bool) else tuple(wanted)
    rows = list(read_lines(path, [f'"{kind}"'.encode() for kind in kinds])) if wanted else []
    rows = [row for row in rows if row.get("kind") in kinds] if kinds else rows
    more = dict.fromkeys(name for name in dict.fromkeys(chain.from_iterable(rows)) if name not in EVENT_DTYPES)
    if len(more) > MOST_EVENT_FIELDS:
        raise AnalysisError(f"{path}: its events have {len(more)} fields, where ours have at most {MOST_EVENT_FIELDS}")
    frame = pd.DataFrame({name: [row.get(name) for row in rows] for name in (*EVENT_DTYPES, *more)}, dtype=object)
    try:
        return frame.astype(EVENT_DTYPES)
    except (ValueError, TypeError, OverflowError) as problem:
        reason = " ".join(str(problem).split())[:MESSAGE_CHARACTERS]
        raise AnalysisError(f"{path} holds an event with a wrong type: {reason}") from None
