"""What a sweep keeps: `rows/KEY.json` of each finished run, and its run folder in `runs/KEY/`.

A run whose key is there is not carried out again, so a sweep goes on where it was interrupted.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from testbed.errors import ConfigError
from testbed.files import make_folder
from testbed.runlog.folder import SUMMARY, read_json, read_summary


class SweepFolder:
    """The finished runs in a sweep's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the folder, because two sweeps at once would make the same runs; raises ConfigError if one holds it."""
        make_folder(self.folder)
        with (self.folder / ".lock").open("w") as lock:  # the kernel frees it, however this process ends
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"{self.folder}: another sweep is at work in this folder: wait until it ends, or use another --out"
                ) from None
            yield

    def runs_folder(self, key: str) -> Path:
        """Return where the run folder of a key is made."""
        return self.folder / "runs" / key

    def find(self, key: str) -> dict[str, Any] | None:
        """Return the row of a finished run, or the summary in its folder if its row was not kept; else None."""
        path = self.folder / "rows" / f"{key}.json"
        return read_json(path) if path.is_file() else finished_in(self.runs_folder(key))

    def put(self, key: str, row: Mapping[str, Any]) -> None:
        """Keep the row of a finished run. Readers see the whole row or none."""
        path = self.folder / "rows" / f"{key}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(f".{os.getpid()}.part")
        half.write_text(json.dumps(row), encoding="utf-8")
        half.replace(path)


def finished_in(folder: Path) -> dict[str, Any] | None:
    """Return the summary of a run in this folder that came to an end of its own, good or bad; None if there is none."""
    for path in sorted(folder.glob(f"*/{SUMMARY}")):
        summary = read_summary(path.parent) or {}
        if summary.get("status") in ("done", "oom") or summary.get("error_kind"):
            return summary
    return None
