import json
import os
from pathlib import Path

import pandas as pd
import pytest
from synthetic_run import make_run

from testbed import analysis
from testbed.cli import run as run_command
from testbed.errors import ConfigError
from testbed.runlog.folder import FORMAT, TABLES, RunLog, read_manifest, read_rows, read_summary


def test_a_run_reads_the_same_from_its_lines_and_from_parquet(tmp_path: Path) -> None:
    folder = make_run(tmp_path, finished=False)
    from_lines = analysis.load(folder)
    assert from_lines.summary is None and from_lines.status == "unfinished"
    assert (folder / "tokens.jsonl").exists()
    RunLog(folder).finish({"status": "done", "policy": "resource-aware"})
    assert not (folder / "tokens.jsonl").exists()
    from_parquet = analysis.load(folder)
    assert from_parquet.status == "done"
    for table in TABLES:
        assert len(getattr(from_lines, table)) > 0 or table in (
            "estimates",
            "delays",
            "faults",
            "recoveries",
        )  # not every run has them
        pd.testing.assert_frame_equal(getattr(from_lines, table), getattr(from_parquet, table))
    pd.testing.assert_frame_equal(from_lines.events, from_parquet.events)


def test_a_table_holds_the_rows_that_were_written_with_the_documented_types(tmp_path: Path) -> None:
    folder = make_run(tmp_path, tokens=16)
    run = analysis.load(folder)
    for table, columns in TABLES.items():
        frame, rows = getattr(run, table), read_rows(folder, table)
        assert list(frame.columns) == [column.name for column in columns]
        for column in columns:
            expected = {
                "int": "int64" if column.required else "Int64",
                "bool": "bool" if column.required else "boolean",
                "float": "float64",
                "str": "str",
            }[column.dtype]
            assert str(frame[column.name].dtype) == expected, (table, column.name)
            read = [None if pd.isna(value) else value for value in frame[column.name]]
            assert read == [row[column.name] for row in rows], (table, column.name)


@pytest.mark.parametrize("finished", [False, True])
def test_tables_without_rows_have_their_columns_and_types(tmp_path: Path, finished: bool) -> None:
    log = RunLog.create(tmp_path, "e", "p")
    log.finish({}) if finished else log.close()
    full = analysis.load(make_run(tmp_path / "full", tokens=9))
    run = analysis.load(log.folder)
    for table in TABLES:
        assert len(getattr(run, table)) == 0
        assert list(getattr(run, table).dtypes) == list(getattr(full, table).dtypes), table
    assert list(run.events.columns[:3]) == ["wall_s", "t_s", "kind"]
    assert str(run.events["value"].dtype) == "float64"


def test_events_keep_their_order_and_whatever_else_they_say(tmp_path: Path) -> None:
    run = analysis.load(make_run(tmp_path))
    assert list(run.events["kind"])[:3] == ["trace_applied", "trace_applied", "migration_committed"]
    squeeze = run.events[run.events["kind"] == "memory_announced"].iloc[0]
    assert (squeeze["step"], squeeze["target"], squeeze["value"]) == (48, "device/c", 72 * 2**20)
    assert run.events.loc[run.events["kind"] == "migration_committed", "blocks"].tolist() == [13, 31, 4]
    some = analysis.load(run.folder, (), events=["memory_announced", "oom_kill"])
    assert some.events["kind"].tolist() == ["memory_announced"] and some.events["t_s"].item() == squeeze["t_s"]
    (changed,) = analysis.with_changes([some])
    pd.testing.assert_frame_equal(changed.events, run.events)


def test_a_run_cut_in_the_middle_of_a_line_loads_without_that_line(tmp_path: Path) -> None:
    folder = make_run(tmp_path, finished=False)
    tokens = folder / "tokens.jsonl"
    os.truncate(tokens, tokens.stat().st_size - 20)
    run = analysis.load(folder)
    assert len(run.tokens) == 95
    assert run.status == "unfinished" and run.policy == "resource-aware"


def test_many_runs_load_from_a_folder_of_runs_or_from_each(tmp_path: Path) -> None:
    folders = [make_run(tmp_path, policy, tokens=9) for policy in ("static", "greedy")]
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "manifest.json").write_text('{"name": "a web page", "start_url": "/"}')
    assert [run.folder for run in analysis.load_many(tmp_path)] == sorted(folders)
    assert [run.policy for run in analysis.load_many(folders)] == ["static", "greedy"]


def test_what_is_no_run_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "manifest.json").write_text('{"name": "a web page", "start_url": "/"}')
    for given in (tmp_path / "empty", tmp_path / "nowhere", tmp_path / "page"):
        with pytest.raises(analysis.AnalysisError, match=f"{given} is no run folder"):
            analysis.load(given)
        with pytest.raises(ConfigError, match=f"{given} is no run folder"):
            analysis.load_many([given])


def test_a_damaged_table_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    folder = make_run(tmp_path, tokens=9)
    (folder / "tokens.parquet").write_bytes(b"not parquet")
    with pytest.raises(analysis.AnalysisError, match=r"tokens\.parquet"):
        analysis.load(folder)


def test_a_table_written_before_an_optional_column_existed_still_loads(tmp_path: Path) -> None:
    folder = make_run(tmp_path, tokens=9)
    stored = pd.read_parquet(folder / "decisions.parquet").drop(columns=["stall_s"])
    stored.to_parquet(folder / "decisions.parquet")
    assert analysis.load(folder).decisions["stall_s"].isna().all()


def test_a_notebook_shows_a_run_as_a_table_and_dashes_what_it_does_not_have(tmp_path: Path) -> None:
    run = analysis.load(make_run(tmp_path, "static<b>", tokens=9))
    assert isinstance(run.summary, dict) and isinstance(run.folder, Path)
    shown = run._repr_html_()
    assert "<th>policy</th><td>static&lt;b&gt;</td>" in shown and "<th>tokens</th><td>9</td>" in shown
    log = RunLog.create(tmp_path, "e", "p")
    log.close()
    assert "<th>mean token (ms)</th><td>–</td>" in analysis.load(log.folder)._repr_html_()


@pytest.mark.parametrize("finished", [False, True])
def test_a_folder_of_an_older_version_loads_with_the_columns_it_lacks_empty(tmp_path: Path, finished: bool) -> None:
    folder = make_run(tmp_path, tokens=9, finished=finished)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest.pop("format") == FORMAT
    if finished:
        pd.read_parquet(folder / "devices.parquet").drop(columns=["alive", "rss_bytes"]).to_parquet(
            folder / "devices.parquet"
        )
    else:
        rows = [json.loads(line) for line in (folder / "devices.jsonl").read_text().splitlines()]
        kept = [{key: value for key, value in row.items() if key not in ("alive", "rss_bytes")} for row in rows]
        (folder / "devices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    with pytest.raises(analysis.AnalysisError, match="devices"):  # this version would have written `alive`
        analysis.load(folder)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    devices = analysis.load(folder).devices
    assert len(devices) > 0 and devices["alive"].isna().all() and devices["rss_bytes"].isna().all()
    assert devices["ledger_bytes"].notna().all()


def test_a_folder_of_a_newer_version_is_refused_in_one_sentence_by_all_that_read_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(tmp_path, tokens=9)
    manifest = json.loads((folder / "manifest.json").read_text()) | {"format": FORMAT + 1}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    refusal = (
        f"{folder} is a run folder of format {FORMAT + 1}, and this version reads formats up to {FORMAT}: use the "
    )
    refusal += "version of the testbed that made it, or a newer one"
    for read in (analysis.load, analysis.load_many, read_manifest, read_summary):
        with pytest.raises(ConfigError) as caught:
            read(folder)
        assert str(caught.value) == refusal
    for arguments in (["report", str(folder)], ["plot", str(folder), "--out", str(tmp_path / "out")]):
        assert run_command(arguments) == 2
        assert capsys.readouterr().err == f"Error: {refusal}\n"
    assert run_command(["runs", str(tmp_path), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["status"], row["error"]) == ("too new", refusal)
