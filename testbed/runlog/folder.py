"""Writes and reads a run folder in a way that survives a crash.

During a run, each table is a JSON-lines file that only grows. `RunLog.finish` converts each into a Parquet file with
the same columns. Times are emulated seconds since token 0, and `wall_s` is the Unix time; sizes are in bytes and rates
in bit/s. `testbed.runlog.tables` defines the columns. pyarrow is imported only to convert, by `testbed.runlog.parquet`.

One process writes a folder at a time; its threads may share the `RunLog`.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from testbed.errors import ConfigError
from testbed.files import make_folder, open_file
from testbed.runlog.documents import (
    FORMAT,
    MANIFEST,
    SUMMARY,
    NewerFormat,
    format_of,
    read_json,
    read_manifest,
    read_summary,
)
from testbed.runlog.journal import JOURNAL, Line
from testbed.runlog.parquet import read_parquet, write_parquet
from testbed.runlog.tables import ABORTED, COMMITTED, TABLES, Column, row_type
from testbed.runlog.writing import FOLDER_GONE, RESERVE, LogLost, encode, identity, lost, reserve, write_json
from testbed.strict_json import parse_object

__all__ = [
    "ABORTED",
    "COMMITTED",
    "FORMAT",
    "MANIFEST",
    "SUMMARY",
    "TABLES",
    "Column",
    "LogLost",
    "NewerFormat",
    "RunLog",
    "Written",
    "file_part",
    "find_table",
    "format_of",
    "is_run_folder",
    "read_json",
    "read_lines",
    "read_manifest",
    "read_rows",
    "read_summary",
]

EVENTS = "events.jsonl"

MOST_NAME_BYTES = 80  # of one name in the name of a run folder; a file system allows 255 bytes in all
FLUSH_SECONDS = 0.2  # a killed controller loses at most the last rows, of so long
FLUSH_BYTES = 256 * 1024  # per file, so that a burst of spans takes little memory
LONGEST_LINE = 2**20  # bytes of a row or event


_DECODE_LINES = msgspec.json.Decoder(dict[str, Any]).decode_lines
_ROW_TYPES = {table: row_type(table) for table in TABLES}


def file_part(name: str) -> str:
    """A name as a part of a file name: only letters, digits and `_ . -`, and only the end of a long name."""
    return re.sub(r"[^\w.-]+", "_", name).encode()[-MOST_NAME_BYTES:].decode(errors="ignore")


class RunLog:
    """The writer of one run folder.

    It checks rows against `TABLES` and buffers them. An event, FLUSH_SECONDS without a flush, or `flush` writes all
    buffers to the files in whole lines. Floats that are not finite become null. If writing fails, LogLost is raised,
    and later rows are dropped; only the documents are still written.
    """

    def __init__(self, folder: Path) -> None:
        """Open an existing folder for writing; raises LogLost if it is missing, ConfigError if the run has ended."""
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise lost(self.folder, FOLDER_GONE)
        if (self.folder / SUMMARY).exists():
            raise ConfigError(f"{self.folder} is finished (it has a {SUMMARY}): a run is written only once")
        self._buffers: dict[str, bytearray] = {}
        self._files: dict[str, int] = {}
        self._lock = threading.RLock()
        self._flushed_at = time.monotonic()
        self._closed = False
        self._lost = False
        self._identity = identity(self.folder)
        self.journaled = False  # whether a journal is kept

    @classmethod
    def create(cls, parent: Path, experiment_name: str, policy: str) -> RunLog:
        """Make the folder `<UTC time>-<experiment>-<policy>` in `parent` and open it; a number keeps names unique."""
        parent = Path(parent)
        make_folder(parent)
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
            # This identifies a run that dies early. The controller replaces it.
            log.write_manifest({"run": folder.name, "experiment_name": experiment_name, "policy": policy})
            return log

    # --- the JSON documents ---

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Replace manifest.json in one step; its `format` says which version of the folder this is."""
        write_json(self.folder / MANIFEST, {"format": FORMAT} | dict(manifest) | {"format": FORMAT})

    def read_manifest(self) -> dict[str, Any]:
        """The present manifest.json; raises ConfigError if it is missing or damaged."""
        return read_json(self.folder / MANIFEST)

    def reserve(self) -> None:
        """Reserve some space on the disk until `finish`, so that the summary fits even if the disk is full by then."""
        reserve(self.folder / RESERVE)

    # --- rows ---

    def event(self, kind: str, t_s: float | None = None, **fields: Any) -> None:
        """Log an event at emulated time `t_s` (None: before token 0), and flush.

        `value` is a number in SI units. The names of other fields are free; by convention they are `step`, `device`,
        `target` and `quantity`.
        """
        value = fields.get("value")
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise ValueError(f"event {kind!r}: value {value!r} must be a number in SI units")
        line = encode({"wall_s": time.time(), "t_s": t_s, "kind": kind, **fields})
        with self._lock:
            self._append(EVENTS, line)
            self.flush()

    def row(self, table: str, **values: Any) -> None:
        """Add a row; raises ValueError for an unknown column, a missing required column, or a wrong type."""
        self.rows(table, [values])

    def rows(self, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add many rows to one table; who follows the run sees all of them or none, unless they are very many."""
        lines = []
        for values in rows:
            row = _checked(table, values)
            if row.wall_s is None:
                row.wall_s = time.time()
            lines.append(encode(row))
        with self._lock:
            for line in lines:
                self._append(f"{table}.jsonl", line)
            if time.monotonic() - self._flushed_at >= FLUSH_SECONDS:
                self.flush()

    # --- the journal ---

    def journal(self, line: Line) -> None:
        """Write a line of the journal at once, if one is kept."""
        if self.journaled:
            with self._lock:
                self._append(JOURNAL, encode(line))
                self._drain(JOURNAL, self._buffers[JOURNAL])

    def sizes(self) -> dict[str, int]:
        """Put every row on file; returns the bytes of each table's lines."""
        self.flush()
        files = {table: self.folder / f"{table}.jsonl" for table in TABLES}
        return {table: path.stat().st_size for table, path in files.items() if path.exists()}

    # --- the end ---

    def flush(self) -> None:
        """Put every buffered row on file, whole lines only."""
        with self._lock:
            for name, buffer in self._buffers.items():
                if buffer:
                    self._drain(name, buffer)
            # Descriptors go on taking rows when the folder has been removed.
            if self._files and not self._lost and identity(self.folder) != self._identity:
                raise self._lose(self.folder, FOLDER_GONE)
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
        """Close the log: replace the manifest, convert each table to Parquet, and write summary.json.

        If the rest cannot be written, the summary is still written and says so, and then LogLost is raised.
        """
        lost: LogLost | None = None
        try:
            self.close()
        except LogLost as problem:
            lost = problem
        with contextlib.suppress(OSError):  # a disk that cannot be written any more, as the next lines tell
            (self.folder / RESERVE).unlink()
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
        with contextlib.suppress(OSError):
            (self.folder / JOURNAL).unlink()
        if lost is not None:
            raise lost

    def written(self, table: str) -> Written:
        """The rows of a table so far; each iteration reads its file."""
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
    """The rows of one table in its file, as dictionaries with all columns; missing values are None."""

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
    """Open a file for appending, after cutting off a half line that a killed writer left."""
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            os.truncate(path, whole)
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


# --- reading back ----------------------------------------------------------------------------------------


def is_run_folder(folder: Path) -> bool:
    """Whether a `RunLog` made this folder."""
    return (folder / MANIFEST).is_file()


def read_lines(path: Path, marks: Sequence[bytes] = ()) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSON-lines file, without a half-written last line; a missing file has none.

    With `marks`, only lines that contain one of them are parsed.
    """
    if not path.exists():
        return
    with open_file(path) as file:
        number, rest = 1, b""  # of the next line, and what is read of it
        while more := file.read(LONGEST_LINE):
            whole, end, rest = (rest + more).rpartition(b"\n")
            if end:
                yield from _parse_lines(whole + end, path, number, marks)
                number += whole.count(b"\n") + 1
            if len(rest) >= LONGEST_LINE:
                raise ConfigError(f"{path} line {number} is too long: over {LONGEST_LINE} bytes")
        if _is_marked(rest, marks):
            with contextlib.suppress(ConfigError):
                yield parse_object(rest, f"{path} line {number}")


def _parse_lines(lines: bytes, path: Path, first: int, marks: Sequence[bytes]) -> Iterable[dict[str, Any]]:
    """The rows of whole lines, of which `first` is the number of the first one in the file."""
    try:
        if not marks:
            rows = _DECODE_LINES(lines)
            if len(rows) == lines.count(b"\n"):  # lines without anything are passed over
                return rows
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass  # the first wrong line is named below
    numbered = enumerate(lines.split(b"\n")[:-1], first)
    return [parse_object(line, f"{path} line {number}") for number, line in numbered if _is_marked(line, marks)]


def _is_marked(line: bytes, marks: Sequence[bytes]) -> bool:
    return any(mark in line for mark in marks) if marks else True


def find_table(folder: Path, table: str) -> Path | None:
    """The file with the rows of a table: its JSON lines while they exist, else its Parquet file, else None.

    The lines are removed only after the Parquet file is in place, so they are complete whenever they exist.
    """
    for path in (folder / f"{table}.jsonl", folder / f"{table}.parquet"):
        if path.exists():
            return path
    return None


def read_rows(folder: Path, table: str) -> list[dict[str, Any]]:
    """All rows of one table as dictionaries with all columns; missing values are None."""
    return list(iter_rows(folder, table))


def iter_rows(folder: Path, table: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of `read_rows` one by one."""
    path = find_table(folder, table)
    if path is None:
        return
    rows: Iterable[dict[str, Any]] = read_lines(path) if path.suffix == ".jsonl" else read_parquet(path).to_pylist()
    names = [column.name for column in TABLES[table]]
    for row in rows:
        yield {name: row.get(name) for name in names}


def _to_parquet(folder: Path, table: str) -> None:
    """Write a table's Parquet file from its lines, if any, and then remove the lines."""
    lines, target = folder / f"{table}.jsonl", folder / f"{table}.parquet"
    if target.exists() and not lines.exists():
        return
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        write_parquet(lines, temporary, table)
        temporary.replace(target)
        lines.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise LogLost(f"{target} cannot be written ({error}): its rows are in {lines.name}") from error
