"""A run folder that can no longer be written: one sentence at once, and the summary wherever it can be."""

import resource
import shutil
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import testbed
from testbed.clock import EmulatedClock
from testbed.controller.recorder import Recorder
from testbed.errors import EnvironmentLacks
from testbed.runlog.folder import FORMAT, LogLost, RunLog, read_json, read_rows
from testbed.transport.messages import Span

PLACED = {"epoch": 3, "step": 0, "block": "head(0,0)", "device": "a"}


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def log(tmp_path: Path) -> RunLog:
    return RunLog.create(tmp_path, "e", "p")


def test_a_table_that_takes_no_more_rows_is_one_sentence_and_the_summary_says_so(log: RunLog) -> None:
    with files_of_at_most(8192):
        with pytest.raises(LogLost, match=r"placements\.jsonl cannot be written \(File too large\): raise `ulimit -f`"):
            for _ in range(100):
                log.rows("placements", [PLACED] * 20)
                log.flush()
        log.row("placements", **PLACED)  # whoever tells something meanwhile is not interrupted again
        log.event("status", status="failed")
        log.finish({"status": "failed", "error": "told before"}, {"facts": 1})
    assert read_json(log.folder / "summary.json") == {"status": "failed", "error": "told before"}
    assert read_json(log.folder / "manifest.json") == {"format": FORMAT, "facts": 1}
    assert len(read_rows(log.folder, "placements")) > 50 and not (log.folder / ".reserve").exists()


def test_a_simulated_run_whose_tables_take_no_more_ends_as_an_emulated_one(tmp_path: Path) -> None:
    with files_of_at_most(12_000), pytest.raises(LogLost, match="File too large"):
        testbed.replay("quickstart", backend="sim", tokens=24, out=tmp_path)
    (folder,) = tmp_path.iterdir()
    assert read_json(folder / "summary.json")["exit_code"] == EnvironmentLacks.exit_code


def test_a_run_that_was_done_when_its_tables_could_not_be_converted_has_failed_in_its_summary(log: RunLog) -> None:
    log.rows("placements", [PLACED | {"block": f"head({n},0)", "wall_s": n**0.5} for n in range(3000)])
    log.flush()
    with files_of_at_most(8192), pytest.raises(LogLost, match=r"placements\.parquet"):
        log.finish({"status": "done", "exit_code": 0, "error": None})
    summary = read_json(log.folder / "summary.json")
    assert (summary["status"], summary["exit_code"]) == ("failed", EnvironmentLacks.exit_code)
    assert len(read_rows(log.folder, "placements")) == 3000
    assert not [path for path in log.folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_run_folder_that_vanishes_is_noticed_at_the_next_flush(how: str, log: RunLog) -> None:
    log.row("placements", **PLACED)
    log.flush()
    if how == "removed":
        shutil.rmtree(log.folder)
    else:
        log.folder.rename(log.folder.with_name("elsewhere"))
        log.folder.mkdir()
    log.row("placements", **PLACED)
    with pytest.raises(LogLost, match="removed or replaced"):
        log.flush()


def test_the_room_kept_for_the_summary_is_taken_and_given_back(log: RunLog) -> None:
    log.reserve()
    assert (log.folder / ".reserve").stat().st_blocks * 512 >= 200_000
    log.finish({})
    assert not (log.folder / ".reserve").exists()


def test_the_recorder_keeps_no_row_that_is_on_file(log: RunLog) -> None:
    clock = EmulatedClock(1.0)
    clock.start()
    recorder = Recorder(log, clock, 1)
    span = Span(1, 0, "block", "ffn(0)", "a", "", 1.0, 2.0, 100.0, 1e6, False, 0.5)
    recorder.spans([span] * 2000)
    tracemalloc.start()
    recorder.spans([span] * 20_000)
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert grown < 1e6
    assert sum(row["bytes"] for row in recorder.kept["spans"]) == 22_000 * 100
