"""The run folder: what is written, in which columns, and how it survives a crash.

While a run goes on every table is a JSON-lines file that only grows; `RunLog.finish` turns each into
parquet with the same columns. Times are emulated seconds since token 0, with the Unix time beside them as
`wall_s`; sizes are bytes, rates bit/s. The tables' columns are in `testbed.runlog.tables`. This module knows
nothing of who writes or reads; pyarrow is imported only to convert and pandas never.

One process writes a folder at a time; its threads may share the `RunLog`.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from testbed.errors import ConfigError
from testbed.files import open_file
from testbed.runlog.documents import MANIFEST, SUMMARY, read_json, read_manifest, read_summary
from testbed.runlog.tables import ABORTED, COMMITTED, TABLES, Column, row_type
from testbed.runlog.writing import RESERVE, LogLost, encode, identity, lost, reserve, write_json
from testbed.strict_json import parse_object

__all__ = [
    "ABORTED",
    "COMMITTED",
    "MANIFEST",
    "SUMMARY",
    "TABLES",
    "Column",
    "LogLost",
    "RunLog",
    "Written",
    "arrow_batches",
    "arrow_schema",
    "file_part",
    "find_table",
    "is_run_folder",
    "read_json",
    "read_lines",
    "read_manifest",
    "read_parquet",
    "read_rows",
    "read_summary",
]

EVENTS = "events.jsonl"

MOST_NAME_BYTES = 80  # of a name in a run folder's; a file system takes 255 in all
FLUSH_SECONDS = 1.0  # the most that a killed controller loses
FLUSH_BYTES = 256 * 1024  # per file, so that a burst of spans stays small in memory
PARQUET_BATCH_ROWS = 5_000  # rows converted at a time; bounds memory for long runs
LEAST_ROWS = 10_000  # of a Parquet file that compresses so well that it has more rows than bytes
LONGEST_LINE = 2**20  # bytes of one row or event


_ROW_TYPES = {table: row_type(table) for table in TABLES}


def file_part(name: str) -> str:
    """A name as part of a file's: letters, digits and `_ . -` only, and the end of it where it is long."""
    return re.sub(r"[^\w.-]+", "_", name).encode()[-MOST_NAME_BYTES:].decode(errors="ignore")


class RunLog:
    """Writer of one run folder.

    Rows are checked against `TABLES` and buffered; an event, a second gone by, or `flush` puts everything on
    file in whole lines. Non-finite floats are stored as null. Raises LogLost as soon as that cannot be done; what is
    told afterwards is dropped, but for the documents.
    """

    def __init__(self, folder: Path) -> None:
        """Open an existing folder for writing; raises ConfigError if it is missing or already finished."""
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise ConfigError(f"{self.folder} is not a run folder: no such folder")
        if (self.folder / SUMMARY).exists():
            raise ConfigError(f"{self.folder} is finished (it has a {SUMMARY}): a run is written only once")
        self._buffers: dict[str, bytearray] = {}
        self._files: dict[str, int] = {}
        self._lock = threading.RLock()
        self._flushed_at = time.monotonic()
        self._closed = False
        self._lost = False
        self._identity = identity(self.folder)

    @classmethod
    def create(cls, parent: Path, experiment_name: str, policy: str) -> RunLog:
        """Make `<UTC time>-<experiment>-<policy>` under `parent` and open it; a number is added if it exists."""
        parent = Path(parent)
        parent.mkdir(parents=True, exist_ok=True)
        now = time.time()
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        stem = "-".join([stamp, file_part(experiment_name), file_part(policy)])
        attempt = 1
        while True:
            folder = parent / (stem if attempt == 1 else f"{stem}-{attempt}")
            try:
                folder.mkdir()
            except FileExistsError:
                attempt += 1
                continue
            log = cls(folder)
            # So that a run that dies early can still be told apart; the controller replaces it.
            log.write_manifest({"run": folder.name, "experiment_name": experiment_name, "policy": policy})
            return log

    # --- the JSON documents ---

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Replace manifest.json in one step."""
        write_json(self.folder / MANIFEST, manifest)

    def read_manifest(self) -> dict[str, Any]:
        """manifest.json as it is now; raises ConfigError when missing or damaged."""
        return read_json(self.folder / MANIFEST)

    def reserve(self) -> None:
        """Take some room on the disk until `finish`, so that one which is full by then still takes the summary."""
        reserve(self.folder / RESERVE)

    # --- rows ---

    def event(self, kind: str, t_s: float | None = None, **fields: Any) -> None:
        """Log that something happened at emulated time `t_s` (None: before token 0), and flush.

        `value`, where given, is a number in SI units; other fields are free, `step`, `device`, `target` and
        `quantity` by convention.
        """
        value = fields.get("value")
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise ValueError(f"event {kind!r}: value {value!r} must be a number in SI units")
        line = encode({"wall_s": time.time(), "t_s": t_s, "kind": kind, **fields})
        with self._lock:
            self._append(EVENTS, line)
            self.flush()

    def row(self, table: str, **values: Any) -> None:
        """Add one row; raises ValueError for an unknown column, a missing required one or a wrong type."""
        row = _checked(table, values)
        if row.wall_s is None:
            row.wall_s = time.time()
        line = encode(row)
        with self._lock:
            self._append(f"{table}.jsonl", line)
            if time.monotonic() - self._flushed_at >= FLUSH_SECONDS:
                self.flush()

    def rows(self, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add many rows of one table."""
        for values in rows:
            self.row(table, **values)

    def flush(self) -> None:
        """Put every buffered row on file, whole lines only."""
        with self._lock:
            for name, buffer in self._buffers.items():
                if buffer:
                    self._drain(name, buffer)
            # Descriptors go on taking rows when the folder has been removed.
            if self._files and not self._lost and identity(self.folder) != self._identity:
                raise self._lose(self.folder, "the run folder was removed or replaced while the run went on")
            self._flushed_at = time.monotonic()

    def close(self) -> None:
        """Flush and close without finishing: the folder stays that of an unfinished run."""
        with self._lock:
            try:
                self.flush()
            finally:
                for descriptor in self._files.values():
                    os.close(descriptor)
                self._files.clear()
                self._closed = True

    def finish(self, summary: Mapping[str, Any], manifest: Mapping[str, Any] | None = None) -> None:
        """Replace the manifest, turn each table into parquet, then write summary.json; the log is closed afterwards.

        The summary is written also where the rest cannot be, and says so then; after that, LogLost is raised.
        """
        lost: LogLost | None = None
        try:
            self.close()
        except LogLost as problem:
            lost = problem
        (self.folder / RESERVE).unlink(missing_ok=True)
        try:
            if manifest is not None:
                self.write_manifest(manifest)
            if lost is None and not self._lost:
                for table in TABLES:
                    _to_parquet(self.folder, table)
        except LogLost as problem:
            lost = problem
        if lost is not None and not summary.get("error"):
            summary = {**summary, "status": "failed", "exit_code": LogLost.exit_code, "error": str(lost)}
            summary["error_kind"] = type(lost).__name__
        write_json(self.folder / SUMMARY, summary)
        if lost is not None:
            raise lost

    def written(self, table: str) -> Written:
        """The rows of a table so far, read from its file whenever they are looked at."""
        return Written(self, table)

    def _append(self, name: str, line: bytes) -> None:
        if self._closed:
            raise ValueError(f"{self.folder / name}: the run log is closed, nothing can be added")
        if self._lost:
            return
        buffer = self._buffers.setdefault(name, bytearray())
        buffer += line
        buffer += b"\n"
        if len(buffer) >= FLUSH_BYTES:
            self._drain(name, buffer)

    def _drain(self, name: str, buffer: bytearray) -> None:
        try:
            if name not in self._files:
                self._files[name] = _open_for_append(self.folder / name)
            while buffer:
                written = os.write(self._files[name], buffer)
                del buffer[:written]
        except OSError as error:
            raise self._lose(self.folder / name, error) from error

    def _lose(self, path: Path, why: OSError | str) -> LogLost:
        self._lost = True
        for buffer in self._buffers.values():
            buffer.clear()
        return lost(path, why)


class Written:
    """The rows of one table as they are on file: dictionaries with every column, missing values as None."""

    def __init__(self, log: RunLog, table: str) -> None:
        self._log, self._table = log, table

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self._log.flush()
        return iter_rows(self._log.folder, self._table)


def _checked(table: str, values: Mapping[str, Any]) -> Any:
    if table not in TABLES:
        raise ValueError(f"{table!r} is no table of a run: one of {', '.join(TABLES)}")
    try:
        return msgspec.convert(values, _ROW_TYPES[table])
    except msgspec.ValidationError as problem:
        unknown = sorted(values.keys() - {column.name for column in TABLES[table]})
        if unknown:
            columns = ", ".join(column.name for column in TABLES[table])
            raise ValueError(f"table {table} has no column {unknown[0]!r}: its columns are {columns}") from None
        raise ValueError(f"table {table}: {problem}") from None


def _open_for_append(path: Path) -> int:
    """Open for appending; a half line that an earlier, killed writer left is cut off first."""
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            os.truncate(path, whole)
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


# --- reading back ----------------------------------------------------------------------------------------


def is_run_folder(folder: Path) -> bool:
    """Whether the folder was made by a `RunLog`."""
    return (folder / MANIFEST).is_file()


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSON-lines file; nothing if it is missing, and a half-written last line is left out."""
    if not path.exists():
        return
    with open_file(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), start=1):
            if len(line) == LONGEST_LINE:
                raise ConfigError(f"{path} line {number} is too long: over {LONGEST_LINE} bytes")
            try:
                yield parse_object(line, f"{path} line {number}")
            except ConfigError:
                if not line.endswith(b"\n"):
                    return
                raise


def find_table(folder: Path, table: str) -> Path | None:
    """Where the table's rows are: its JSON lines while they exist, else its parquet file, else nowhere.

    The lines are removed only after the parquet file is in place, so whenever they exist they are complete.
    """
    for path in (folder / f"{table}.jsonl", folder / f"{table}.parquet"):
        if path.exists():
            return path
    return None


def read_rows(folder: Path, table: str) -> list[dict[str, Any]]:
    """All rows of one table as dictionaries with every column, missing values as None."""
    return list(iter_rows(folder, table))


def iter_rows(folder: Path, table: str) -> Iterator[dict[str, Any]]:
    """The same, one by one."""
    path = find_table(folder, table)
    if path is None:
        return
    rows: Iterable[dict[str, Any]] = read_lines(path) if path.suffix == ".jsonl" else read_parquet(path).to_pylist()
    names = [column.name for column in TABLES[table]]
    for row in rows:
        yield {name: row.get(name) for name in names}


def read_parquet(path: Path) -> Any:
    """The rows of a Parquet file as a pyarrow table; raises ConfigError where it holds none."""
    import pyarrow
    import pyarrow.parquet

    with open_file(path) as file:
        try:
            parquet = pyarrow.parquet.ParquetFile(file)
            rows, size = parquet.metadata.num_rows, os.fstat(file.fileno()).st_size
            if rows > max(LEAST_ROWS, size):  # each has the time at which it was written
                raise ConfigError(f"{path} says that it holds {rows} rows, which {size} bytes cannot")
            return parquet.read()
        except (pyarrow.ArrowException, OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{path} cannot be read as Parquet: {' '.join(str(error).split())[:200]}") from error


def arrow_schema(table: str) -> Any:
    """The table's pyarrow schema."""
    import pyarrow

    types = {"int": pyarrow.int64(), "float": pyarrow.float64(), "str": pyarrow.string(), "bool": pyarrow.bool_()}
    return pyarrow.schema([(column.name, types[column.dtype]) for column in TABLES[table]])


def arrow_batches(path: Path, table: str) -> Iterator[Any]:
    """The rows of a JSON-lines file as pyarrow record batches of the table's schema."""
    import pyarrow

    schema = arrow_schema(table)
    batch: list[dict[str, Any]] = []
    for row in read_lines(path):
        batch.append(row)
        if len(batch) == PARQUET_BATCH_ROWS:
            yield pyarrow.RecordBatch.from_pylist(batch, schema=schema)
            batch = []
    yield pyarrow.RecordBatch.from_pylist(batch, schema=schema)


def _to_parquet(folder: Path, table: str) -> None:
    """Write the table's parquet file from its lines (an empty one if there are none), then drop the lines."""
    import pyarrow.parquet

    lines, target = folder / f"{table}.jsonl", folder / f"{table}.parquet"
    if target.exists() and not lines.exists():
        return
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with pyarrow.parquet.ParquetWriter(temporary, arrow_schema(table), compression="zstd") as writer:
            for batch in arrow_batches(lines, table):
                writer.write_batch(batch)
        temporary.replace(target)
        lines.unlink(missing_ok=True)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise LogLost(f"{target} cannot be written ({error}): its rows are in {lines.name}") from error
