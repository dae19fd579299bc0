"""Runs as things one keeps: choosing, showing, comparing and removing them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from synthetic_run import make_run

from testbed.errors import ConfigError
from testbed.runlog.folder import RunLog
from testbed.running.remove_runs import remove_run
from testbed.running.run_facts import diff_runs, show_run
from testbed.running.run_filters import Wanted, made_at, newest_of_each, parse_moment, sort_runs
from testbed.running.run_list import list_runs
from testbed.running.run_names import find_run

OLD_S = 3600.0


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with three runs, one of them unfinished, and a folder and a file that are none."""
    folder = tmp_path / "runs"
    make_run(folder, "resource-aware")
    make_run(folder, "static", tokens=48)
    make_run(folder, "static", tokens=8, finished=False)
    (folder / "figures").mkdir()
    (folder / "notes.txt").write_text("mine")
    return folder


def age(folder: Path) -> None:
    """Make it look as if nobody had written there for an hour."""
    then = time.time() - OLD_S
    for path in [*folder.iterdir(), folder]:
        os.utime(path, (then, then))


def test_rows_say_what_was_run_and_how_large_it_is(runs: Path) -> None:
    rows = list_runs(runs)
    assert [row["policy"] for row in rows].count("static") == 2
    for row in rows:
        assert row["size_bytes"] == sum(path.stat().st_size for path in Path(row["path"]).iterdir())
        assert row["experiment"] == "quickstart"


def test_filters_take_patterns_and_say_what_there_is(runs: Path) -> None:
    rows = list_runs(runs)
    assert len(Wanted(policy=["stat*"]).choose(rows)) == 2
    assert len(Wanted(policy=["static", "resource-aware"], status=["unfinished"]).choose(rows)) == 1
    with pytest.raises(ConfigError, match=r"--policy sttic: none of the 3 runs has that; did you mean 'static'\?"):
        Wanted(policy=["sttic"]).choose(rows)


def test_since_and_before_take_dates_and_ages(runs: Path) -> None:
    now = 1_800_000_000.0
    assert parse_moment("2 h", "--since", now) == now - 7200
    assert parse_moment("1.5d", "--since", now) == now - 1.5 * 86_400
    assert parse_moment("2026-11-29", "--since") == time.mktime((2026, 11, 29, 0, 0, 0, 0, 0, -1))
    rows = list_runs(runs)
    assert len(Wanted(since=time.time() - 60).choose(rows)) == 3
    assert Wanted(before=time.time() - 60).choose(rows) == []
    assert all(made_at(row) is not None for row in rows)
    for text in ("yesterday", "2 fortnights", ""):
        with pytest.raises(ConfigError, match="--before .* is neither a date like"):
            parse_moment(text, "--before")


def test_runs_are_sorted_by_any_key_and_those_without_a_value_come_last(runs: Path) -> None:
    rows = list_runs(runs)
    assert [row["status"] for row in sort_runs(rows, "mean")][-1] == "unfinished"
    sizes = [row["size_bytes"] for row in sort_runs(rows, "size", largest_first=True)]
    assert sizes == sorted(sizes, reverse=True)


def test_the_newest_of_each_are_kept(runs: Path) -> None:
    rows = [
        {"name": f"2026010{day}T000000Z-e-p", "path": str(day), "policy": policy}
        for day, policy in ((1, "a"), (2, "a"), (3, "a"), (4, "b"))
    ]
    assert [row["path"] for row in newest_of_each(rows, 2)] == ["4", "3", "2"]


def test_showing_a_run_says_how_it_ended(runs: Path) -> None:
    done = show_run(next(row["path"] for row in list_runs(runs) if row["policy"] == "resource-aware"))
    assert done["status"] == "done" and done["figures"]["migrations"] > 0
    assert set(done["files"]) >= {"tokens.parquet", "spans.parquet"}
    cut = show_run(next(row["path"] for row in list_runs(runs) if row["status"] == "unfinished"))
    assert cut["figures"]["mean token (ms)"] is None


def test_two_runs_differ_in_policy_and_figures(runs: Path) -> None:
    one, other = (row["path"] for row in list_runs(runs) if row["status"] != "unfinished")
    found = diff_runs(one, other)
    assert set(found["settings"]["policy"]) == {"resource-aware", "static"}
    assert found["figures"]["migrations"]["one"] != found["figures"]["migrations"]["other"]
    same = diff_runs(one, one)
    assert same["settings"] == same["environment"] == {} and same["first_different_token"] is None
    assert same["figures"]["mean token (ms)"]["ratio"] == 1.0


def test_a_run_is_removed_with_its_folder(runs: Path) -> None:
    (folder,) = (Path(row["path"]) for row in list_runs(runs) if row["policy"] == "resource-aware")
    assert remove_run(folder) == [] and not folder.exists()
    assert len(list_runs(runs)) == 2 and (runs / "notes.txt").exists() and (runs / "figures").is_dir()


def test_what_a_run_does_not_write_stays(runs: Path) -> None:
    (folder,) = (Path(row["path"]) for row in list_runs(runs) if row["policy"] == "resource-aware")
    (folder / "remarks.md").write_text("keep me")
    (folder / "figures").mkdir()
    (folder / "tokens.parquet").unlink()
    (folder / "tokens.parquet").symlink_to(runs / "notes.txt")
    assert remove_run(folder) == ["figures", "remarks.md", "tokens.parquet"]
    assert sorted(path.name for path in folder.iterdir()) == ["figures", "remarks.md", "tokens.parquet"]
    assert (runs / "notes.txt").read_text() == "mine"
    with pytest.raises(ConfigError, match="is no run folder"):
        remove_run(folder)


def test_a_run_that_may_be_going_on_is_refused_until_forced(runs: Path) -> None:
    (folder,) = (Path(row["path"]) for row in list_runs(runs) if row["status"] == "unfinished")
    with pytest.raises(ConfigError, match="so it may be going on: wait, or give --force"):
        remove_run(folder)
    assert (folder / "manifest.json").exists()
    age(folder)
    assert remove_run(folder) == []
    log = RunLog.create(runs, "e", "p")
    log.close()
    assert remove_run(log.folder, force=True) == []


def test_what_is_no_run_is_never_touched(runs: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(find_run(next(row["path"] for row in list_runs(runs) if row["status"] == "done")))
    for what, told in ((runs, "holds 3"), (runs / "figures", "no manifest.json"), (runs / "notes.txt", "is a file"),
                       (link, "it is a link"), (tmp_path / "none", "no such run")):  # fmt: skip
        with pytest.raises(ConfigError, match=told):
            remove_run(what, force=True)
    (runs / "figures" / "manifest.json").write_text('{"name": "a web page", "start_url": "/"}')
    with pytest.raises(ConfigError, match="is that of something else"):
        remove_run(runs / "figures", force=True)
    assert len(list_runs(runs)) == 3
