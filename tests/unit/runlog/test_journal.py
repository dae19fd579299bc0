"""The journal: whole lines only, and a folder that is made as it was at the journal's end."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from testbed.runlog.folder import RunLog, read_rows
from testbed.runlog.journal import JOURNAL, Checkpoint, Crossing, Generated, Lost, Resumed, read_past
from testbed.runlog.rewinding import rewind


@pytest.fixture
def log(tmp_path: Path) -> RunLog:
    made = RunLog.create(tmp_path, "quickstart", "static")
    made.journaled = True
    return made


def token(step: int) -> Generated:
    row = {"step": step, "token_id": 7, "epoch": 0, "prefill": step == 0, "start_s": 0.5 * step, "latency_s": 0.5}
    return Generated(row, 0.5 * step)


def generate(log: RunLog, step: int) -> None:
    log.journal(token(step))
    log.row("tokens", **token(step).row)


def checkpoint(log: RunLog, tokens: int, lost: tuple[str, ...] = (), **more: Any) -> None:
    crossings, now_s = [Crossing(float(tokens), tokens // 2, True)], 0.5 * tokens
    placement, files = {"a": ["ffn(0)"]}, log.sizes()
    log.journal(Checkpoint(tokens // 2, tokens, 0, placement, 0, now_s, 0.0, lost, [], crossings, files, **more))


def begun(log: RunLog) -> None:
    """A run of three tokens with a checkpoint after two, and a loss since."""
    generate(log, 0)
    generate(log, 1)
    log.row("placements", epoch=0, step=0, block="ffn(0)", device="a")
    checkpoint(log, 2)
    generate(log, 2)
    log.row("placements", epoch=1, step=3, block="ffn(0)", device="b")
    log.journal(Lost({"t_s": 1.4, "device": "b", "step": 3, "cause": "exit", "recovering": True}))


def test_without_a_journal_nothing_has_been_generated(tmp_path: Path) -> None:
    past = read_past(tmp_path)
    assert past.checkpoint is None and past.tokens == [] and past.lost == []


def test_a_journal_tells_what_was_written(log: RunLog) -> None:
    begun(log)
    checkpoint(log, 3, ("b",))
    log.journal(Resumed(5.0))
    log.journal(Lost({"device": "c"}))
    past = read_past(log.folder)
    assert past.checkpoint is not None and past.checkpoint.tokens == 3
    assert [line.row["step"] for line in past.tokens] == [0, 1, 2]
    assert past.lost == ["b", "c"] and past.resumed == 1
    assert [crossing.until for crossing in past.crossings] == [2.0, 3.0]


def test_wherever_a_journal_is_cut_the_whole_lines_before_count_and_no_more(log: RunLog) -> None:
    begun(log)
    content = (log.folder / JOURNAL).read_bytes()
    ends = [at + 1 for at, byte in enumerate(content) if byte == ord("\n")]
    for size in {0, *(end + more for end in ends for more in (-9, -1, 0, 1) if end + more <= len(content))}:
        (log.folder / JOURNAL).write_bytes(content[:size])
        past = read_past(log.folder)
        assert past.whole_bytes == content[:size].rfind(b"\n") + 1
        assert len(past.tokens) == content[: past.whole_bytes].count(b'"token"')


def test_what_a_disk_lost_in_the_middle_ends_the_journal(log: RunLog) -> None:
    begun(log)
    lines = (log.folder / JOURNAL).read_bytes().splitlines(keepends=True)
    (log.folder / JOURNAL).write_bytes(lines[0] + b"\0" * 40 + b"\n" + b"".join(lines[2:]))
    assert [line.row["step"] for line in read_past(log.folder).tokens] == [0]


def test_tables_become_what_they_were_at_the_journals_end(log: RunLog) -> None:
    begun(log)
    log.close()
    with (log.folder / JOURNAL).open("a") as journal:
        journal.write('{"type":"tok')
    again, past = RunLog(log.folder), read_past(log.folder)
    again.journaled = True
    rewind(again, past)
    assert [row["step"] for row in read_rows(log.folder, "tokens")] == [0, 1, 2]
    assert [row["device"] for row in read_rows(log.folder, "placements")] == ["a"]
    assert [row["device"] for row in read_rows(log.folder, "faults")] == ["b"]
    again.journal(token(3))
    assert [line.row["step"] for line in read_past(log.folder).tokens] == [0, 1, 2, 3]


def test_tables_that_have_become_parquet_files_are_cut_too_and_lost_to_no_full_disk(
    log: RunLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(log)
    checkpoint(log, 3, ("b",))
    size = (log.folder / "placements.jsonl").stat().st_size
    generate(log, 3)
    log.row("placements", epoch=2, step=4, block="ffn(0)", device="a")
    past = read_past(log.folder)
    asked = {"asked_s": 0.0, "asked_jitter_s": 0.0, "asked_loss": 0.0}
    log.row("delays", device="b", direction="up", messages=9, **asked)  # the run that goes on writes it again
    log.finish({"status": "failed"})
    assert not (log.folder / JOURNAL).exists(), "a run that has ended needs none"
    (log.folder / "summary.json").unlink()
    written = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        written(path, content[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        rewind(RunLog(log.folder), past)
    monkeypatch.undo()
    rewind(RunLog(log.folder), past)
    assert [row["step"] for row in read_rows(log.folder, "tokens")] == [0, 1, 2, 3]
    assert [row["epoch"] for row in read_rows(log.folder, "placements")] == [0, 1]
    assert (log.folder / "placements.jsonl").stat().st_size == size and not list(log.folder.glob("*.parquet"))
    assert not read_rows(log.folder, "delays")


def test_a_log_that_keeps_no_journal_writes_none(tmp_path: Path) -> None:
    log = RunLog.create(tmp_path, "quickstart", "static")
    begun(log)
    assert not (log.folder / JOURNAL).exists()


def test_a_recovery_is_written_down_once_whenever_the_controller_dies_after_it(log: RunLog) -> None:
    begun(log)
    times = {"noticed_s": 1.4, "decided_s": 1.5, "committed_s": 1.6, "rebuilt_s": 1.7, "predicted_s": 0.1}
    row = {"epoch": 1, "step": 3, "devices": "b", **times, "blocks": 1, "loaded_bytes": 9, "rows": 5, "kept_rows": 0}
    checkpoint(log, 3, ("b",), recovery=row)
    past = read_past(log.folder)
    rewind(log, past)
    assert past.since == [] and read_rows(log.folder, "recoveries") == [], "its first token is still to come"
    generate(log, 3)
    log.row("recoveries", **row, token_s=2.0)
    log.flush()
    rewind(log, read_past(log.folder))
    log.close()
    (found,) = read_rows(log.folder, "recoveries")
    assert (found["step"], found["token_s"]) == (3, 2.0)
