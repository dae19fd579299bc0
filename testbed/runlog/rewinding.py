"""Makes a run folder as it was at the end of its journal, so that a run can go on in it."""

from __future__ import annotations

import os
from pathlib import Path

from testbed.runlog.folder import TABLES, RunLog, read_rows
from testbed.runlog.journal import JOURNAL, Past
from testbed.runlog.writing import encode


def rewind(log: RunLog, past: Past) -> None:
    """Remove what the tables hold of the time after the last checkpoint, and write the tokens and losses since it.

    Events stay, because they tell what happened. The journal loses what is not whole. Tables that have become Parquet
    files, as the run ended, become lines again.
    """
    if (log.folder / JOURNAL).exists():
        os.truncate(log.folder / JOURNAL, past.whole_bytes)
    sizes = past.checkpoint.files if past.checkpoint is not None else {}
    for table in TABLES:
        lines, columns = log.folder / f"{table}.jsonl", log.folder / f"{table}.parquet"
        if columns.exists() and not lines.exists():
            _make_lines(log.folder, table, lines)
        if lines.exists():
            os.truncate(lines, min(lines.stat().st_size, sizes.get(table, 0)))
        columns.unlink(missing_ok=True)
    known = len(read_rows(log.folder, "tokens"))
    log.rows("tokens", (line.row for line in past.tokens[known:]))
    log.rows("faults", (line.row for line in past.losses))
    if past.checkpoint is not None and past.checkpoint.recovery is not None and past.since:
        first = past.since[0].row
        log.row("recoveries", **past.checkpoint.recovery, token_s=first["start_s"] + first["latency_s"])
    log.flush()


def _make_lines(folder: Path, table: str, target: Path) -> None:
    """Write the lines from which a Parquet file was made, byte for byte as many; all of them or none."""
    required = {column.name for column in TABLES[table] if column.required}
    found = (
        {name: value for name, value in row.items() if value is not None or name in required}
        for row in read_rows(folder, table)
    )
    temporary = target.with_name(f".{target.name}")
    temporary.write_bytes(b"".join(encode(row) + b"\n" for row in found))
    temporary.replace(target)
