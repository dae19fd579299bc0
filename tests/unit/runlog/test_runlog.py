import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.errors import ConfigError
from testbed.runlog.folder import FORMAT, TABLES, RunLog, find_table, read_lines, read_rows
from testbed.runlog.writing import LogLost

PLACED = {"epoch": 3, "step": 8, "block": "head(0,1)", "device": "b"}


@pytest.fixture
def log(tmp_path: Path) -> RunLog:
    return RunLog.create(tmp_path, "quickstart", "resource-aware")


def test_a_folder_is_named_after_time_experiment_and_policy_and_never_shared(tmp_path: Path) -> None:
    logs = [RunLog.create(tmp_path / "runs", "quick start", "static") for _ in range(3)]
    assert len({log.folder for log in logs}) == 3
    stamp, *rest = logs[0].folder.name.split("-")
    assert len(stamp) == 16 and stamp.endswith("Z")
    assert rest == ["quick_start", "static"]


def test_creators_in_many_threads_get_a_folder_each(tmp_path: Path) -> None:
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(RunLog.create(tmp_path, "e", "p").folder)) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 16


def test_a_manifest_reads_back_and_is_replaced_as_a_whole(log: RunLog) -> None:
    assert log.read_manifest()["policy"] == "resource-aware"
    log.write_manifest({"experiment": {"tokens": 96}, "model": Path("/models/gpt2")})
    assert log.read_manifest() == {"format": FORMAT, "experiment": {"tokens": 96}, "model": "/models/gpt2"}
    assert [path.name for path in log.folder.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize(
    ("table", "values", "says"),
    [
        ("tokens", {"stepp": 1}, "no column 'stepp'"),
        ("placements", {"epoch": 1, "step": 0, "block": "ffn(0)"}, "missing required field `device`"),
        ("placements", PLACED | {"epoch": "three"}, r"Expected `int`, got `str` - at `\$.epoch`"),
        ("placements", PLACED | {"step": True}, "Expected `int`, got `bool`"),
        ("heads", {}, "'heads' is no table of a run"),
        (
            "migrations",
            {"epoch": 1, "block": "ffn(0)", "src": "a", "dst": "b", "bytes": 1, "start_s": 0.0, "outcome": "perhaps"},
            "Invalid enum value 'perhaps'",
        ),
    ],
)
def test_a_row_that_does_not_fit_its_table_is_refused_and_says_why(
    log: RunLog, table: str, values: dict[str, object], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        log.row(table, **values)
    log.flush()
    assert find_table(log.folder, table) is None


def test_missing_optional_columns_and_numbers_that_are_not_finite_become_null(log: RunLog) -> None:
    log.row("decisions", epoch=1, step=8, policy="p", decision_s=1, moved=0, feasible=True, predicted_after_s=1e999)
    log.flush()
    (row,) = read_rows(log.folder, "decisions")
    assert row.keys() == {column.name for column in TABLES["decisions"]}
    assert row["reason"] is None and row["predicted_after_s"] is None
    assert row["decision_s"] == 1.0 and row["wall_s"] > 1e9


def test_any_name_of_an_experiment_and_a_policy_makes_a_folder(tmp_path: Path) -> None:
    for name in ("../../x", "/", "x" * 400, "é" * 200, "\x1b[2J\n", ".", "模型" * 100):
        folder = RunLog.create(tmp_path, name, f"/{'long/' * 100}policy.py:Mine").folder
        assert folder.parent == tmp_path and folder.name.isprintable() and folder.name.endswith("policy.py_Mine")
        assert (folder / "manifest.json").is_file()


def test_an_event_is_on_file_at_once_with_all_rows_before_it(log: RunLog) -> None:
    log.row("placements", **PLACED)
    assert find_table(log.folder, "placements") is None
    log.event("oom_kill", 12.5, device="c", step=48)
    (event,) = read_lines(log.folder / "events.jsonl")
    assert {key: event[key] for key in ("kind", "t_s", "device", "step")} == {
        "kind": "oom_kill",
        "t_s": 12.5,
        "device": "c",
        "step": 48,
    }
    assert len(read_rows(log.folder, "placements")) == 1


def test_rows_reach_the_file_within_a_second_without_being_told(log: RunLog) -> None:
    log.row("placements", **PLACED)
    log._flushed_at -= 1.0  # a second goes by
    log.row("placements", **PLACED)
    assert len(read_rows(log.folder, "placements")) == 2


def test_an_events_value_must_be_a_number(log: RunLog) -> None:
    with pytest.raises(ValueError, match="'50 Mbit/s' must be a number"):
        log.event("trace_applied", 1.0, value="50 Mbit/s")


def test_finishing_leaves_typed_parquet_for_every_table_even_an_empty_one(log: RunLog) -> None:
    log.rows("placements", [PLACED, PLACED | {"epoch": 4}])
    log.event("status", status="done")
    log.finish({"status": "done"})
    assert sorted(path.name for path in log.folder.iterdir()) == sorted(
        ["manifest.json", "summary.json", "events.jsonl", *(f"{table}.parquet" for table in TABLES)]
    )
    for table, columns in TABLES.items():
        schema = pyarrow.parquet.read_schema(log.folder / f"{table}.parquet")
        assert schema.names == [column.name for column in columns]
    assert str(pyarrow.parquet.read_schema(log.folder / "links.parquet").field("requested_bps").type) == "double"
    assert [row["epoch"] for row in read_rows(log.folder, "placements")] == [3, 4]
    assert json.loads((log.folder / "summary.json").read_text()) == {"status": "done"}


def test_a_finished_run_cannot_be_written_again(log: RunLog) -> None:
    log.finish({"status": "done"})
    with pytest.raises(ValueError, match="closed"):
        log.row("placements", **PLACED)
    with pytest.raises(ConfigError, match="is finished"):
        RunLog(log.folder)


def test_a_folder_that_is_missing_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(LogLost, match="removed"):
        RunLog(tmp_path / "nowhere")


def test_a_half_written_last_line_is_left_out_and_cut_off_when_writing_goes_on(log: RunLog) -> None:
    log.rows("placements", [PLACED, PLACED])
    log.close()
    lines = log.folder / "placements.jsonl"
    lines.write_bytes(lines.read_bytes() + b'{"epoch":5,"step":1')
    assert len(read_rows(log.folder, "placements")) == 2
    again = RunLog(log.folder)
    again.row("placements", **PLACED | {"epoch": 6})
    again.finish({})
    assert [row["epoch"] for row in read_rows(log.folder, "placements")] == [3, 3, 6]


def test_a_damaged_line_in_the_middle_is_an_error_that_names_it(log: RunLog) -> None:
    (log.folder / "placements.jsonl").write_text('{"epoch":\n{"epoch":1}\n')
    with pytest.raises(ConfigError, match=r"placements\.jsonl line 1 is not JSON"):
        read_rows(log.folder, "placements")


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(0, 400))
def test_wherever_a_crash_cuts_the_file_all_whole_rows_are_read(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    log = RunLog.create(tmp_path_factory.mktemp("cut"), "e", "p")
    log.rows("placements", [PLACED | {"epoch": epoch, "wall_s": 0.0} for epoch in range(5)])
    log.close()
    lines = log.folder / "placements.jsonl"
    content = lines.read_bytes()[:cut]
    lines.write_bytes(content)
    whole = content.count(b"\n") + (1 if content.endswith(b"}") else 0)
    assert [row["epoch"] for row in read_rows(log.folder, "placements")] == list(range(whole))


def test_if_finishing_was_interrupted_the_lines_still_count(log: RunLog) -> None:
    log.row("placements", **PLACED)
    log.flush()
    (log.folder / "placements.parquet").write_bytes(b"half a file")
    assert len(read_rows(log.folder, "placements")) == 1
    log.finish({})
    assert pyarrow.parquet.read_table(log.folder / "placements.parquet").num_rows == 1


def test_a_killed_writer_leaves_everything_up_to_its_last_flush(tmp_path: Path) -> None:
    program = f"""
import os
from pathlib import Path
from testbed.runlog.folder import RunLog
log = RunLog.create(Path({str(tmp_path)!r}), "e", "p")
for epoch in range(100):
    log.row("placements", epoch=epoch, step=0, block="ffn(0)", device="a")
log.flush()
log.row("placements", epoch=100, step=0, block="ffn(0)", device="a")
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": os.getcwd()}, check=False)
    assert done.returncode == -9
    (folder,) = tmp_path.iterdir()
    assert [row["epoch"] for row in read_rows(folder, "placements")] == list(range(100))


def test_the_run_log_loads_neither_pandas_nor_pyarrow() -> None:
    imported = "import sys, testbed.runlog.folder, testbed.runlog.summary"
    program = f"{imported}; print([m for m in ('pandas', 'pyarrow') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_every_column_says_what_it_is() -> None:
    for table, columns in TABLES.items():
        names = [column.name for column in columns]
        assert len(set(names)) == len(names), table
        for column in columns:
            assert column.meaning and (column.unit or column.dtype in ("int", "str", "bool")), (table, column.name)
            if column.name.endswith("_bytes"):
                assert (column.dtype, column.unit) == ("int", "bytes")
            if column.name.endswith("_s"):
                assert (column.dtype, column.unit) == ("float", "s")
