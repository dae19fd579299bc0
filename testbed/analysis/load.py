"""Run folders into DataFrames.

Columns, types and units are those of `testbed.runlog.folder.TABLES`, whether the run is finished (parquet) or was
cut short (JSON lines). In a DataFrame a str column is pandas' `str`, a float column float64 with NaN for
null, a required int or bool column int64 or bool, an optional one `Int64` or `boolean`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from testbed.errors import ConfigError
from testbed.runlog.folder import (
    EVENTS,
    TABLES,
    Column,
    arrow_batches,
    arrow_schema,
    find_table,
    is_run_folder,
    read_lines,
    read_manifest,
    read_parquet,
    read_summary,
)

LARGEST = 1e18  # seconds, bytes, bit/s, FLOP: what no run reaches
MESSAGE_CHARACTERS = 200  # of what a library says about a file
MOST_EVENT_FIELDS = 200  # ours have some dozens

# Columns that `events` always has; what an event says besides gets a column of its own.
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
    """What was given to analyse is no run, or a damaged one."""


@dataclass(frozen=True, eq=False)
class Run:
    """One run: its folder, its documents and its tables.

    Each table is a DataFrame with the columns and units of docs/run-folder.md.
    """

    folder: Path
    manifest: Mapping[str, Any]
    summary: Mapping[str, Any] | None  # None: the run did not come to its end
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

    def said(self, key: str, default: Any = None) -> Any:
        """A fact about the run: from its summary, else its manifest, else the experiment in its manifest."""
        experiment = self.manifest.get("experiment")
        for place in (self.summary, self.manifest, experiment):
            if isinstance(place, Mapping) and place.get(key) is not None:
                return place[key]
        return default

    @property
    def policy(self) -> str:
        """Name of the policy."""
        return str(self.said("policy", self.folder.name))

    @property
    def status(self) -> str:
        """`done`, `oom` or `failed`; `unfinished` without a summary."""
        return str((self.summary or {}).get("status", "unfinished"))

    @property
    def simulated(self) -> bool:
        """Whether its times are the cost model's, and not a measurement."""
        return bool(self.said("provenance") == "simulated" or self.said("backend") == "sim")

    @property
    def seed(self) -> int | None:
        """The experiment's seed, if known."""
        seed = self.said("seed")
        return None if seed is None else int(seed)

    @property
    def tokens_asked(self) -> int | None:
        """How many tokens the experiment wanted, if known."""
        experiment = self.manifest.get("experiment")
        asked = experiment.get("tokens") if isinstance(experiment, Mapping) else None
        return asked if isinstance(asked, int) else None

    @property
    def decoded(self) -> pd.DataFrame:
        """The tokens table without the prefill."""
        return self.tokens[~self.tokens["prefill"]]

    @property
    def verdict(self) -> str:
        """`ok`, `not faithful`, `simulated`, or `none` for a run that did not come to a verdict."""
        if self.simulated:
            return "simulated"
        verdict = self.said("verdict")
        if not isinstance(verdict, Mapping):
            return "none"
        return "ok" if verdict.get("ok") else "not faithful"

    def _repr_html_(self) -> str:
        """The table that a notebook shows; a figure that the summary does not have is a dash."""
        rows = {"policy": self.policy, "backend": str(self.said("backend", "unknown")), "status": self.status}
        rows["tokens"] = str(len(self.tokens))
        for heading, (key, how) in NOTEBOOK_FIGURES.items():
            value = (self.summary or {}).get(key)
            rows[heading] = "–" if value is None else format(value, how)
        rows |= {"verdict": self.verdict, "folder": str(self.folder)}
        body = "".join(f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in rows.items())
        return f"<table><tbody>{body}</tbody></table>"


def load(path: str | Path) -> Run:
    """The run in this folder; raises AnalysisError if it is none or is damaged."""
    folder = Path(path)
    if not is_run_folder(folder):
        what = "it has no manifest.json" if folder.is_dir() else "no such folder"
        raise AnalysisError(f"{folder} is no run folder: {what}; give a folder that `testbed replay` made")
    try:
        return Run(
            folder=folder,
            manifest=read_manifest(folder),
            summary=read_summary(folder),
            events=_load_events(folder / EVENTS),
            **{table: _load_table(folder, table) for table in TABLES},
        )
    except AnalysisError:
        raise
    except ConfigError as problem:
        raise AnalysisError(str(problem)) from None


def load_many(paths: str | Path | Iterable[str | Path]) -> list[Run]:
    """Runs from run folders and from folders of runs, in the order given and by name within a folder."""
    found: list[Run] = []
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        folder = Path(path)
        if is_run_folder(folder) or not folder.is_dir():
            found.append(load(folder))
            continue
        inside = sorted(child for child in folder.iterdir() if is_run_folder(child))
        if not inside:
            raise AnalysisError(f"{folder} is no run folder and holds none: give a folder that `testbed replay` made")
        found += [load(child) for child in inside]
    return found


def _load_table(folder: Path, table: str) -> pd.DataFrame:
    path = find_table(folder, table)
    try:
        content = arrow_schema(table).empty_table() if path is None else _arrow_table(path, table)
        frame = content.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}.get)
        typed: pd.DataFrame = frame.astype({column.name: _pandas_dtype(column) for column in TABLES[table]})
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as problem:
        if path is not None and not path.exists():  # the run has just finished and put Parquet in its lines' place
            return _load_table(folder, table)
        told = " ".join(str(problem).split())[:MESSAGE_CHARACTERS]
        raise AnalysisError(f"{path} does not hold the columns of table {table}: {told}") from None
    for column in TABLES[table]:
        _refuse_values(typed[column.name], column, f"{path}: column {column.name}")
    return typed


def _arrow_table(path: Path, table: str) -> pa.Table:
    schema = arrow_schema(table)
    if path.suffix == ".jsonl":
        return pa.Table.from_batches(arrow_batches(path, table), schema=schema)
    stored = read_parquet(path)
    for name in set(schema.names) - set(stored.column_names):  # written before the column existed
        stored = stored.append_column(name, pa.nulls(len(stored), schema.field(name).type))
    return stored.select(schema.names).cast(schema)


def _refuse_values(values: pd.Series, column: Column, where: str) -> None:
    """Raise AnalysisError for values that no run has."""
    if column.dtype == "str":
        if column.required and values.isna().any():
            raise AnalysisError(f"{where} lacks a value")
        for value in values.dropna().unique():
            if column.choices and value not in column.choices:
                raise AnalysisError(f"{where} holds {value[:40]!r}, which is none of {', '.join(column.choices)}")
    elif column.dtype != "bool" and (values.abs() > LARGEST).fillna(False).any():
        raise AnalysisError(f"{where} holds {values[values.abs() > LARGEST].iloc[0]}, which is out of all proportion")


def _pandas_dtype(column: Column) -> str:
    if column.dtype in ("int", "bool"):
        plain, nullable = {"int": ("int64", "Int64"), "bool": ("bool", "boolean")}[column.dtype]
        return plain if column.required else nullable
    return {"float": "float64", "str": "str"}[column.dtype]


def _load_events(path: Path) -> pd.DataFrame:
    rows = list(read_lines(path))
    more = dict.fromkeys(name for row in rows for name in row if name not in EVENT_DTYPES)
    if len(more) > MOST_EVENT_FIELDS:
        raise AnalysisError(f"{path}: its events have {len(more)} fields, where ours have at most {MOST_EVENT_FIELDS}")
    frame = pd.DataFrame(rows, columns=[*EVENT_DTYPES, *more], dtype=object)
    try:
        return frame.astype(EVENT_DTYPES)
    except (ValueError, TypeError, OverflowError) as problem:
        told = " ".join(str(problem).split())[:MESSAGE_CHARACTERS]
        raise AnalysisError(f"{path} holds an event with a wrong type: {told}") from None
