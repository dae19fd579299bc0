"""`testbed runs` from the command line: its verbs, its bare form, and asking before anything goes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from synthetic_run import make_run

from testbed.cli import run

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds `runs` with two runs."""
    make_run(tmp_path / "runs", "resource-aware")
    make_run(tmp_path / "runs", "static", tokens=48)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(capsys: Captured, *arguments: str) -> list[str]:
    assert run([*arguments, "--json"]) == 0
    return [row["policy"] for row in json.loads(capsys.readouterr().out)]


def test_the_bare_verb_lists_as_before(there: Path, capsys: Captured) -> None:
    every = ["resource-aware", "static"]
    assert names(capsys, "runs") == names(capsys, "runs", "runs") == names(capsys, "runs", "list", "runs") == every
    assert run(["runs", "runs"]) == 0
    assert "resource-aware" in capsys.readouterr().out
    assert names(capsys, "runs", "runs", "--policy", "static") == ["static"]
    assert names(capsys, "runs", "--sort", "policy", "--reverse") == ["static", "resource-aware"]
    assert run(["runs", "list", "--since", "2030-01-01"]) == 0
    assert capsys.readouterr().out == "None of the 2 runs in runs is all of that.\n"


def test_a_run_is_shown_by_its_name(there: Path, capsys: Captured) -> None:
    (folder,) = (there / "runs").glob("*-resource-aware")
    assert run(["runs", "show", folder.name]) == 0
    shown = capsys.readouterr().out
    assert f"run         runs/{folder.name}" in shown and "mean token (ms)" in shown
    assert re.search(r"bytes on links +[\d,]+,\d{3}\n", shown)
    assert run(["runs", "show", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["figures"]["tokens"] == 96


def test_two_runs_are_shown_beside_each_other(there: Path, capsys: Captured) -> None:
    one, other = sorted(path.name for path in (there / "runs").iterdir())
    assert run(["runs", "diff", one, other]) == 0
    shown = capsys.readouterr().out
    assert "policy" in shown and "other / one" in shown and "They do not differ in environment." in shown
    manifest = there / "runs" / one / "manifest.json"
    facts = {"memory_limits": {"a": [80736256, 80736256]}, "idle_private_bytes": [7094272, 7077888]}
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"facts": facts}))
    assert run(["runs", "diff", one, other]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"facts.memory_limits.a +77 MiB +-\n", shown) and " 6.766 MiB, 6.75 MiB " in shown


def test_nothing_goes_without_a_yes(there: Path, capsys: Captured) -> None:
    (folder,) = (there / "runs").glob("*-static")
    assert run(["runs", "rm", folder.name]) == 2
    assert "say --yes" in capsys.readouterr().err and folder.exists()
    assert run(["runs", "prune", "--policy", "static"]) == 2
    assert folder.exists()
    assert run(["runs", "rm", folder.name, "--yes"]) == 0
    assert capsys.readouterr().out == f"Removed runs/{folder.name}.\n" and not folder.exists()


def test_pruning_removes_what_fits_all_options(there: Path, capsys: Captured) -> None:
    assert run(["runs", "prune", "--policy", "static", "--dry-run"]) == 0
    assert "1 run with" in capsys.readouterr().out and len(list((there / "runs").iterdir())) == 2
    assert run(["runs", "prune", "--policy", "static", "--before", "1 h", "--yes"]) == 0
    assert capsys.readouterr().out == "No run in runs fits.\n"
    assert run(["runs", "prune", "--keep", "1", "--yes"]) == 0
    assert capsys.readouterr().out == "No run in runs fits.\n"
    (there / "runs" / "newest").symlink_to(make_run(there / "runs", "static", tokens=48))
    assert run(["runs", "prune", "--keep", "1", "--yes"]) == 0
    assert capsys.readouterr().out.count("Removed") == 1
    assert sorted(names(capsys, "runs")) == ["resource-aware", "static", "static"]  # the last is the link's
