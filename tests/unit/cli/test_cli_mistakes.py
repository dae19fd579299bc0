"""Mistakes that a newcomer makes: each ends in one sentence that says what was probably meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_run import make_run

from testbed.cli import run

ROOT = Path(__file__).parents[3]
TO_SIM = ("--backend", "sim", "--out", "made")

MISTAKES: list[tuple[tuple[str, ...], str]] = [
    # verbs and options
    (("replya", "quickstart"), "did you mean 'replay'"),
    (("replay", "quickstart", "--tokenz", "8"), "--tokens"),
    (("replay", "quickstart", "--tokens", "ten"), "'ten' is not a whole number"),
    (("replay", "quickstart", "--backend", "simulation"), "'sim'"),
    (("replay", "quickstart", "--set", "tokens:16"), "key=value"),
    (("replay", "quickstart", "--policy", "static", "--policy", "greedy"), "`testbed compare`"),
    (("run", "quickstart"), "did you mean `testbed replay`?"),
    (("quickstart",), "did you mean `testbed replay quickstart`?"),
    (("diff", "one", "other"), "did you mean `testbed runs diff`?"),
    (("--dry-run", "replay", "quickstart"), "options of a command stand behind it"),
    (("replay", "quickstart", "--topology", "star4"), "did you mean --set topology=VALUE?"),
    (("replay", "quickstart", "--trace", "outage"), "did you mean --set traces=[NAME]?"),
    (("replay", "quickstart", "--set", "backend=sim"), "did you mean --backend sim?"),
    (("replay", "quickstart", "--set", "tokens=1e3"), "it should be a whole number"),
    (("compare", "quickstart", "--policy", "static", "--backend", "sim,mininet"), "write `--backend` before each"),
    (("sweep", "sweep-delay", "--set", "tokens=8"), "a sweep's file says that"),
    (("completion", "install"), "did you mean --install?"),
    # experiments by name and by path
    (("help",), "`testbed --help`"),
    (("version",), "`testbed --version`"),
    (("replay", "quickstart", "-b", "sim"), "written in full, as --backend"),
    (("replay", "quickstart", "--set", "tokens", "=", "8"), "KEY=VALUE without spaces"),
    (("compare", "quickstart", *TO_SIM, "--policy", "static", "greedy"), "write `--policy` or `--backend` before each"),
    (("compare", "quickstart", *TO_SIM, "--policy", "static,greedy"), "--policy static --policy greedy"),
    (("compare", "quickstart", *TO_SIM, "--policy", "static", "--policy", "static"), "policy static is given twice"),
    (("watch", "runs", "--speed", "fast"), "'fast' is not a number;"),
    (("replay", "quikstart"), "did you mean 'quickstart'?"),
    (("replay", "experiments/quickstart"), "did you mean 'quickstart'"),
    (("replay", "experiment/quickstart.yaml"), "did you mean 'quickstart', which is bundled?"),
    (("replay", "sweep-delay"), "`testbed sweep sweep-delay`"),
    (("replay", "experiments/sweep-delay.yaml"), "`testbed sweep experiments/sweep-delay.yaml`"),
    (("sweep", "quickstart"), "`testbed replay quickstart`"),
    (("sweep", "experiments/quickstart.yaml"), "`testbed replay experiments/quickstart.yaml`"),
    (("replay", "star4"), "--set topology=star4"),
    (("replay", "topologies/star4.yaml"), "--set topology=topologies/star4.yaml"),
    # what an experiment consists of
    (("replay", "quickstart", *TO_SIM, "--set", "topology=star5"), "did you mean 'star4'?"),
    (("replay", "quickstart", *TO_SIM, "--set", "topology=topologies/star4"), "did you mean 'star4'"),
    (("replay", "quickstart", *TO_SIM, "--set", "topolgy=star4"), "did you mean 'topology'?"),
    (("replay", "quickstart", *TO_SIM, "--set", "traces=[link-colapse]"), "did you mean 'link-collapse'?"),
    (("replay", "quickstart", *TO_SIM, "--set", "model.preset=smollm-135m"), "did you mean 'smollm2-135m'?"),
    (("replay", "quickstart", *TO_SIM, "--policy", "paper_search"), "'paper-search'"),
    (("replay", "quickstart", *TO_SIM, "--set", "topology.devices.b.memory=40"), "like '256 MiB'"),
    (("replay", "quickstart", *TO_SIM, "--set", "topology.devices.b.link.rate=6 MB/s"), "like '50 Mbit/s'"),
    (("replay", "quickstart", *TO_SIM, "--policy", "mine.py"), "as in 'mine.py:Mine'"),
    (("replay", "quickstart", *TO_SIM, "--set", "model=gpt2"), "`model.preset=gpt2`"),
    (("replay", "quickstart", *TO_SIM, "--set", "traces=link-collapse"), "like [link-collapse]"),
    (("ping", "quickstart"), "is a bundled experiment, but a topology is wanted: choose from four-boards, "),
    (("plan", "llama-3-8b", "raspberry-pi-5 8GB x 4"), "'4 x raspberry-pi-5 8GB'"),
    (("replay", "quickstart", "static"), "did you mean --policy static?"),
    (("replay", "quickstart", "sim"), "did you mean --backend sim?"),
    (("plot", "experiments/quickstart.yaml"), "is no run folder: it is a file"),
    (("plan", "4 x raspberry-pi-5 8GB", "llama-3-8b"), "write the model first, then devices"),
    (("plan", "llama-3-8b", "4x"), "boards in quotes and with spaces, like '4 x raspberry-pi-5 8GB'"),
    (("plan", "llama-3-8b", "4", "x", "raspberry-pi-5", "8GB"), "in quotes, as in '4 x raspberry-pi-5 8GB';"),
    (("plan", "tiny", "2 x raspberry-pi-4", "--link", "10", "Mbit/s"), "in quotes, as in '10 Mbit/s';"),
    (("topologies", "show", "strar4"), "did you mean 'star4'?"),
    (("traces", "show", "outagee"), "did you mean 'outage'?"),
    (("topologies", "star4"), "did you mean `testbed topologies show star4`?"),
    (("topologies", "draw", "star4"), "did you mean 'graph'?"),
    # runs
    (("runs", "delete", "runs/one"), "did you mean 'rm'?"),
    (("report", "runs", "report.html"), "did you mean --out report.html?"),
    (("plot", "runs", "--out", "figure.png"), "say --format png"),
    (("explain", "one", "40"), "did you mean --token 40?"),
    (("runs", "shwo", "runs/one"), "did you mean 'show'?"),
    (("runs", "list", "runs", "--status", "finished"), "did you mean 'unfinished'?"),
    (("runs", "list", "runs", "--policy", "resource_aware"), "did you mean 'resource-aware'?"),
    (("runs", "list", "runs", "--sort", "siez"), "did you mean 'size'?"),
    (("runs", "list", "runs", "--since", "yesterday"), "'2 days'"),
    (("runs", "prune", "runs"), "--keep 5"),
    (("explain", "runs"), "is no run folder: it holds 2, such as runs/"),
    (("export", "runs/none"), "there is no such run"),
    (("plot", "runs", "--figure", "token-latency"), "did you mean 'token_latency'?"),
    (("report", "runs", "--out", "report.pdf"), ".html, .htm, .md, .tex"),
    (("watch", "non", "--once"), "there is no such run"),
]


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the project's own files in it, and with two runs."""
    for name in ("experiments", "topologies", "traces"):
        (tmp_path / name).symlink_to(ROOT / name)
    make_run(tmp_path / "runs")
    make_run(tmp_path / "runs", policy="static", tokens=8, finished=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("arguments", "told"), MISTAKES, ids=lambda value: " ".join(value) if value is tuple else None)
def test_a_mistake_ends_in_one_sentence_with_the_right_suggestion(
    there: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], told: str
) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Error: ") and captured.err.count("\n") == 1
    assert told in captured.err
    assert not (there / "made").exists()


def test_a_misspelt_run_is_named(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = next((there / "runs").glob("*-static"))
    assert run(["explain", f"runs/{folder.name[:-1]}"]) == 2
    assert f"did you mean 'runs/{folder.name}'?" in capsys.readouterr().err
    assert run(["runs", "show", folder.name[:-1]]) == 2
    assert f"did you mean '{folder.name}'?" in capsys.readouterr().err
    for verb, told in (
        (["export", str(folder), "--token", "40"], "it has 0 to 7"),
        (["runs", "list", str(folder)], f"`testbed runs show {folder}` shows it"),
        (["replay", str(folder)], "is a run's folder"),
    ):
        assert run(verb) == 2
        assert told in capsys.readouterr().err


def test_bundled_names_stand_for_paths(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["replay", "gpt2-star4", *TO_SIM, "--tokens", "8", "--set", "topology=star4", "--set",
                "traces=[link-collapse, {path: memory-squeeze, end: hold}]", "--json"]) == 0  # fmt: skip
    assert run(["replay", "quickstart", "--dry-run", "--set", "topology=star4"]) == 0
    assert run(["sweep", "sweep-delay", "--help"]) == 0


def test_a_path_that_exists_wins_over_a_bundled_name(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (there / "star4").write_text((ROOT / "topologies" / "ring5.yaml").read_text())
    assert run(["topologies", "show", "star4"]) == 0
    assert "shape ring" in capsys.readouterr().out


def test_a_row_that_acts_later_than_it_says_is_told_once(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("late.csv").write_text("time,target,quantity,value\n30,link/b,rate,40 Mbit/s\n41,link/b,rate,50 Mbit/s\n")
    late = ("--set", "traces=[late.csv]", "--set", "interval=8")
    note = "Note: the row of trace late at token 30 acts at token 32, because decisions come every 8 tokens (interval)"
    assert run(["replay", "gpt2-star4", *TO_SIM, *late, "--tokens", "48"]) == 0
    assert capsys.readouterr().err.count(f"{note}; 1 more row waits, too.") == 1
    policies = ("--policy", "single", "--policy", "round-robin", "--seeds", "2")
    assert run(["compare", "gpt2-star4", *TO_SIM, *late, *policies, "--tokens", "40"]) == 0
    assert capsys.readouterr().err.count(note) == 1
    assert run(["replay", "gpt2-star4", "--dry-run", *late]) == 0
    assert "acts at token 32" in capsys.readouterr().err
    assert run(["replay", "gpt2-star4", *TO_SIM, *late, "--tokens", "32"]) == 0
    assert "never acts, because the last decision is before token 32" in capsys.readouterr().err
    assert run(["replay", "gpt2-star4", *TO_SIM, *late, "--set", "trace_clock=time", "--tokens", "8"]) == 0
    assert "acts" not in capsys.readouterr().err


def test_a_laptop_needs_no_storage(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text(
        "source: laptop\ndevices:\n"
        "  laptop: {streaming: 8 GB/s, compute: 50 GFLOP/s, memory: 2 GiB, link: {rate: 1 Gbit/s}}\n"
        "  board: {catalogue: raspberry-pi-4, link: {rate: 1 Gbit/s}}\n"
    )
    assert run(["topologies", "show", "mine.yaml"]) == 0
    shown = capsys.readouterr().out
    assert "600 MB/s" in shown and shown.count("600 MB/s") == 1
