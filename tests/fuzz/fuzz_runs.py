"""Run folders: the documents, the lines of events and tables, the Parquet files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from documents import GARBAGE, as_bytes, broken, files_like, mangled
from hypothesis import given
from hypothesis import strategies as st

from testbed.analysis.load import Run, _load_events, _load_table, load
from testbed.analysis.metrics import metrics
from testbed.analysis.plots.marks import oom_mark, trace_marks
from testbed.analysis.plots.style import run_names
from testbed.analysis.report import _provenance
from testbed.cli.show import print_json
from testbed.runlog.folder import TABLES, RunLog, read_manifest, read_summary
from testbed.runlog.parquet import arrow_schema
from testbed.running.run_list import describe_run

EVENT = {"wall_s": 1.5, "t_s": 0.5, "kind": "trace_applied", "step": 3, "device": "b", "target": "link/b"}
EVENT |= {"quantity": "up", "value": 5e6, "reason": "it said so"}
MANIFEST = {
    "run": "r", "policy": "static", "backend": "mininet", "seed": 1, "experiment_name": "quickstart",
    "experiment": {"name": "quickstart", "tokens": 96, "seed": 1, "interval": 8, "delay": "auto", "dilation": 1},
    "host": {"system": "Linux-6.1.0", "cores": 2},
}  # fmt: skip
SUMMARY = {
    "run": "r", "status": "done", "policy": "static", "backend": "mininet", "provenance": "emulated", "seed": 1,
    "experiment": "quickstart", "tokens": [1, 2, 3], "verified": "bitwise", "mean_token_ms": 1.5, "migrations": 0,
    "token_latency_ms": {"mean": 1.5, "p50": 1.5}, "verdict": {"ok": False, "reasons": ["late"], "notes": []},
    "error": None, "exit_code": 0,
}  # fmt: skip
_VALUES: dict[str, Any] = {"int": 3, "float": 0.5, "bool": False, "str": "b"}
ROWS = {
    table: {column.name: (*column.choices, _VALUES[column.dtype])[0] for column in columns}
    for table, columns in TABLES.items()
}
"""A row of each table with all its columns."""
MOST_LINES = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a row in each table, in Parquet."""
    log = RunLog.create(tmp_path_factory.mktemp("runs"), "quickstart", "static")
    for table, row in ROWS.items():
        log.row(table, **row)
    log.event(**{key: value for key, value in EVENT.items() if key != "wall_s"})
    log.write_manifest(MANIFEST)
    log.finish(SUMMARY)
    return log.folder


@pytest.fixture(scope="module")
def sound(folder: Path) -> Run:
    return load(folder)


@contextmanager
def content_of(path: Path, content: bytes) -> Iterator[None]:
    """Give the file another content while a case reads it."""
    before = path.read_bytes() if path.exists() else None
    path.write_bytes(content)
    try:
        yield
    finally:
        path.unlink()
        if before is not None:
            path.write_bytes(before)


def listed(folder: Path) -> bool:
    """List the run, which must succeed; returns whether the run can be read."""
    row = describe_run(folder, folder.parent)
    if row["status"] in ("damaged", "too new"):
        assert row["error"]
        return False
    assert isinstance(row["tokens"], int)
    assert all(value is None or isinstance(value, str | int | float) for value in row.values()), row
    print_json([row])
    return True


@given(content=files_like(MANIFEST))
def fuzz_the_manifest(folder: Path, sound: Run, content: bytes) -> None:
    with content_of(folder / "manifest.json", content):
        told = listed(folder)
        run = replace(sound, manifest=read_manifest(folder), summary=None)
    assert told
    assert isinstance(run_names([run, run])[0], str)
    assert all(isinstance(line, str) for line in _provenance(run))


@given(content=files_like(SUMMARY))
def fuzz_the_summary(folder: Path, sound: Run, content: bytes) -> None:
    with content_of(folder / "summary.json", content):
        told = listed(folder)
        run = replace(sound, summary=read_summary(folder))
    assert told
    assert isinstance(run_names([run, run])[0], str)
    assert all(isinstance(line, str) for line in [run.verdict, *_provenance(run)])


def lines_like(row: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """A file of rows, of which most are right."""
    lines = st.lists(st.one_of(st.just(row), broken(row)), max_size=MOST_LINES).map(
        lambda rows: b"".join(as_bytes(one) + b"\n" for one in rows)
    )
    return st.one_of(lines, lines, lines.flatmap(mangled), GARBAGE)


@given(content=lines_like(EVENT))
def fuzz_the_events(folder: Path, sound: Run, content: bytes) -> None:
    path = folder / "events.jsonl"
    with content_of(path, content):
        run = replace(sound, events=_load_events(path))
    for mark in [*trace_marks(run), oom_mark(run)]:
        assert mark is None or isinstance(mark.text, str)


TABLE_FILES = st.sampled_from(sorted(ROWS)).flatmap(lambda table: st.tuples(st.just(table), lines_like(ROWS[table])))


@given(written=TABLE_FILES)
def fuzz_the_lines_of_a_table(folder: Path, sound: Run, written: tuple[str, bytes]) -> None:
    table, content = written
    with content_of(folder / f"{table}.jsonl", content):
        frame = _load_table(folder, table, older=False)
    if len(frame) == MOST_LINES:  # not always, because drawing a run takes longer than reading it
        metrics(replace(sound, **{table: frame}))


@st.composite
def parquet_files(draw: st.DrawFn) -> tuple[str, bytes]:
    """A table's Parquet file with changed bytes, or with columns of other names and types."""
    table = draw(st.sampled_from(sorted(ROWS)))
    columns = {name: [value] for name, value in ROWS[table].items()}
    schema = arrow_schema(table)
    if draw(st.booleans()):
        name = draw(st.sampled_from(sorted(columns)))
        kind = draw(st.sampled_from(KINDS))
        value = draw(st.sampled_from([None, 0, -1, 2**31 - 1]))
        number = schema.get_field_index(name)
        schema = schema.set(number, pa.field(name, kind))
        try:
            columns[name] = pa.array([value], pa.int64()).cast(kind)
        except pa.ArrowException:
            columns[name] = pa.nulls(1, kind)
        if draw(st.booleans()):
            schema = schema.remove(number)
            del columns[name]
    file = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), file, compression=draw(st.sampled_from(["zstd", "none"])))
    return table, draw(mangled(file.getvalue()))


KINDS = [pa.int64(), pa.int8(), pa.uint64(), pa.float32(), pa.string(), pa.binary(), pa.bool_(), pa.null()]
KINDS += [pa.timestamp("ns"), pa.date32(), pa.decimal128(30, 2), pa.list_(pa.int64()), pa.struct([("a", pa.int8())])]
KINDS += [pa.dictionary(pa.int8(), pa.string()), pa.large_string(), pa.duration("s"), pa.map_(pa.string(), pa.int8())]


@given(written=parquet_files())
def fuzz_the_parquet_of_a_table(folder: Path, written: tuple[str, bytes]) -> None:
    table, content = written
    with content_of(folder / f"{table}.parquet", content):
        frame = _load_table(folder, table, older=False)
    assert list(frame.columns) == list(ROWS[table])
