"""The Parquet files of a run folder hold what its lines held."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.runlog import parquet
from testbed.runlog.folder import LogLost, RunLog, read_rows

ROWS = [
    {"t_s": 0.1, "first_step": 0, "last_step": 2**62, "span_s": 5e-324, "cores": 2, "own_share": 1e300,
     "others_share": -0.0, "idle_share": 2, "pressure_share": None, "wall_s": 1.0},
    {"t_s": 1 / 3, "first_step": -1, "last_step": 0, "span_s": 1e22, "cores": 2, "own_share": 0.0, "others_share": 0.0,
     "idle_share": 0.0, "pressure_share": 0.25, "load": 1.5, "wall_s": 2.0},
]  # fmt: skip


def finished(parent: Path, table: str, rows: list[dict[str, object]]) -> Path:
    log = RunLog.create(parent, "e", "p")
    log.rows(table, rows)
    log.finish({"status": "done"})
    return log.folder


def test_numbers_come_back_to_the_last_bit(tmp_path: Path) -> None:
    read = read_rows(finished(tmp_path, "host", ROWS), "host")
    assert [{key: row[key] for key in given} for row, given in zip(read, ROWS, strict=True)] == ROWS
    assert str(read[0]["others_share"]) == "-0.0" and read[0]["load"] is None


def test_a_table_of_many_chunks_keeps_every_row_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "CHUNK_BYTES", 300)
    texts = ["2024-01-01 00:00:00", "ä\n\t\u2028", "x" * 1000, "", "null"] * 40
    rows: list[dict[str, object]] = [
        {"epoch": number, "step": 0, "block": text, "device": "a", "wall_s": 0.0} for number, text in enumerate(texts)
    ]
    assert read_rows(finished(tmp_path, "placements", rows), "placements") == rows


def test_lines_that_are_no_rows_are_left_and_named(tmp_path: Path) -> None:
    log = RunLog.create(tmp_path, "e", "p")
    log.row("placements", epoch=0, step=0, block="ffn(0)", device="a")
    log.flush()
    lines = log.folder / "placements.jsonl"
    lines.write_text('{"epoch": "zero"}\n')
    with pytest.raises(LogLost, match=r"placements\.parquet cannot be written .* its rows are in placements\.jsonl"):
        log.finish({"status": "done"})
    assert lines.exists() and not (log.folder / "placements.parquet").exists()
