"""A run folder is followed while it grows, ends, is cut short and disappears."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from synthetic_run import make_run

from testbed.runlog.folder import EVENTS, SUMMARY, RunLog, read_rows
from testbed.runlog.following import FOLLOWED, Follower
from testbed.runlog.journal import Checkpoint, Past
from testbed.runlog.rewinding import rewind


def token(log: RunLog, step: int) -> None:
    log.row("tokens", step=step, epoch=0, prefill=step == 0, start_s=float(step), latency_s=1.0)
    log.flush()


def steps(run: Follower) -> list[int]:
    return [row["step"] for row in run.rows["tokens"]]


def test_each_look_reads_what_is_new_and_nothing_twice(tmp_path: Path) -> None:
    log = RunLog.create(tmp_path, "small", "static")
    run = Follower(log.folder)
    assert run.look() is False and run.trouble is None
    for step in range(3):
        token(log, step)
        assert run.look() is True and steps(run) == list(range(step + 1))
        assert run.look() is False


def test_half_a_line_is_read_when_it_is_whole(tmp_path: Path) -> None:
    log = RunLog.create(tmp_path, "small", "static")
    token(log, 0)
    run = Follower(log.folder)
    path = log.folder / "tokens.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:20])
    run.look()
    assert steps(run) == []
    path.write_bytes(whole)
    run.look()
    assert steps(run) == [0]


def test_a_run_that_ends_between_two_looks_is_complete_at_the_second(tmp_path: Path) -> None:
    log = RunLog.create(tmp_path, "small", "static")
    token(log, 0)
    run = Follower(log.folder)
    run.look()
    token(log, 1)
    log.event("status", 2.0, status="done")
    log.finish({"status": "done"})
    assert run.look() is True
    assert steps(run) == [0, 1] and run.summary is not None and run.summary["status"] == "done"
    assert [event["kind"] for event in run.events] == ["status"]


@pytest.mark.parametrize("ending", [False, True])
def test_a_run_that_is_resumed_is_read_anew(tmp_path: Path, ending: bool) -> None:
    log = RunLog.create(tmp_path, "small", "static")
    log.journaled = True
    token(log, 0)
    past = Past(Checkpoint(0, 1, 0, {}, 0, 0.0, 0.0, [], [], [], log.sizes()))
    token(log, 1)
    if ending:  # it dies while its tables become Parquet files
        log.finish({"status": "done"})
        (log.folder / SUMMARY).unlink()
    run = Follower(log.folder)
    run.look()
    assert steps(run) == [0, 1]
    again = RunLog(log.folder)
    rewind(again, past)
    run.look()
    assert steps(run) == [0] and run.trouble is None
    token(again, 2)
    run.look()
    assert steps(run) == [0, 2]


def test_a_finished_run_is_read_at_one_look(tmp_path: Path) -> None:
    folder = make_run(tmp_path, tokens=17)
    run = Follower(folder)
    run.look()
    assert {table: len(run.rows[table]) for table in FOLLOWED} == {
        table: len(read_rows(folder, table)) for table in FOLLOWED
    }


def test_what_was_read_stays_when_the_folder_is_gone_or_damaged(tmp_path: Path) -> None:
    folder = make_run(tmp_path, tokens=17, finished=False)
    run = Follower(folder)
    run.look()
    with (folder / "tokens.jsonl").open("a") as file:
        file.write("no JSON\n")
    run.look()
    assert run.trouble is not None and "tokens.jsonl" in run.trouble
    shutil.rmtree(folder)
    assert run.look() is True
    assert run.trouble == f"{folder} is gone" and len(steps(run)) == 17


def test_a_pipe_in_place_of_a_file_is_told_and_not_waited_for(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    (folder / EVENTS).unlink()
    os.mkfifo(folder / EVENTS)
    run = Follower(folder)
    run.look()
    assert run.trouble is not None and run.trouble.endswith("it is a pipe, not a file")
