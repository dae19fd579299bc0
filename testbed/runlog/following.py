"""Follows a run folder while it is being written: reads what is new, whatever becomes of the folder meanwhile.

A table is a file of lines that grows and at the end becomes a Parquet file, which holds the same rows. Only whole lines
are read, from where the last look ended. A run that is resumed cuts its tables, which are then read anew.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from testbed.errors import ConfigError
from testbed.files import kind_of
from testbed.runlog.folder import EVENTS, MANIFEST, SUMMARY, TABLES, read_manifest, read_rows, read_summary
from testbed.strict_json import parse_object

Row = Mapping[str, Any]

FOLLOWED = ("tokens", "placements", "devices", "links", "decisions", "migrations", "host", "faults", "recoveries")
"""The tables that are followed; spans, by far the largest, are not."""

FAULTS = (
    "out_of_budget", "oom_kill", "worker_failed", "migration_aborted", "policy_misbehaved", "status", "device_lost",
    "device_suspected", "device_lost_again",
)  # fmt: skip
"""The kinds of events that mean that something went wrong."""

CAUSES = {"exit": "its worker ended", "hung": "it stood still"}
"""A fault's cause -> what happened to the device."""

MOST_BYTES = 4 * 2**20  # of one file that are read at one look


class Follower:
    """The rows of a run so far. `look` reads what is new."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: dict[str, Any] = {}
        self.summary: dict[str, Any] | None = None
        self.events: list[Row] = []
        self.rows: dict[str, list[Row]] = {table: [] for table in FOLLOWED}
        self.trouble: str | None = None  # why nothing more comes: the folder is gone or damaged
        self._read: dict[str, int] = {}  # bytes of each file
        self._whole: set[str] = set()  # tables of which all rows are here

    def look(self) -> bool:
        """Read what is new; returns whether anything was. What was read stays, even if the folder is gone."""
        before = (len(self.events), *map(len, self.rows.values()), self.summary is None, self.trouble)
        try:
            if not (self.folder / MANIFEST).exists():
                raise ConfigError(f"{self.folder} is gone")
            # The summary comes last, so if it is there now, all other files are complete.
            ended = self.summary is None and (self.folder / SUMMARY).exists()
            self.manifest = read_manifest(self.folder) if ended or not self.rows["tokens"] else self.manifest
            self.events += self._new_lines(EVENTS)
            for table in FOLLOWED:
                self._look_at(table)
            if ended:
                self.summary = read_summary(self.folder)
            self.trouble = None
        except (ConfigError, OSError) as error:
            self.trouble = str(error)
        return before != (len(self.events), *map(len, self.rows.values()), self.summary is None, self.trouble)

    def _look_at(self, table: str) -> None:
        known, lines = self.rows[table], self.folder / f"{table}.jsonl"
        try:
            size: int | None = lines.stat().st_size
        except FileNotFoundError:
            size = None
        if size is not None:
            if table in self._whole or size < self._read.get(lines.name, 0):  # the run is resumed
                known.clear()
                self._whole.discard(table)
                self._read[lines.name] = 0
            names = [column.name for column in TABLES[table]]
            known += [{name: row.get(name) for name in names} for row in self._new_lines(lines.name)]
        elif table not in self._whole and (self.folder / f"{table}.parquet").exists():
            known += read_rows(self.folder, table)[len(known) :]
            self._whole.add(table)

    def _new_lines(self, name: str) -> Sequence[Row]:
        """The rows of the whole lines of a file that have not been read yet; a file that is not there has none."""
        path, begin = self.folder / name, self._read.get(name, 0)
        try:
            mode = path.stat().st_mode
            if not stat.S_ISREG(mode):  # a look would wait for who writes to a pipe
                raise ConfigError(f"{path}: the file cannot be read: it is {kind_of(mode)}, not a file")
            with path.open("rb") as file:
                file.seek(begin)
                lines, end, _ = file.read(MOST_BYTES).rpartition(b"\n")
        except FileNotFoundError:  # also while it becomes a Parquet file
            return []
        self._read[name] = begin + len(lines) + len(end)
        return [parse_object(line, str(path)) for line in lines.split(b"\n") if line]


def loss_events(faults: Iterable[Row], recoveries: Iterable[Row]) -> list[Row]:
    """Losses of devices and recoveries, as events; of a device that the kernel killed there is an event already."""
    lost = [
        {"kind": "device_lost", "t_s": row["t_s"], "device": row["device"], "reason": CAUSES[row["cause"]]}
        for row in faults
        if row["cause"] in CAUSES
    ]
    whole = [
        {"kind": "recovered", "t_s": row["rebuilt_s"], "blocks": row["blocks"], "reason": f"without {row['devices']}"}
        for row in recoveries
    ]
    return sorted([*lost, *whole], key=lambda row: row["t_s"])
