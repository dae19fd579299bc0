"""Sweeps: what a file means, what a key depends on, and real worker processes killed and interrupted in the middle."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest
from distributed import LocalCluster
from trespassing import let_in, listening

import testbed
from testbed.cli import run
from testbed.errors import ConfigError
from testbed.experiment.schema import Experiment
from testbed.running.dask_cluster import _is_missing, remarks_on
from testbed.running.sweep import sweep
from testbed.running.sweep_file import Sweep, run_key
from testbed.running.sweep_folder import SweepFolder

EXPERIMENT = {
    "model": {"preset": "tiny"}, "prompt": {"ids": [1, 2, 3]}, "tokens": 24,
    "topology": {"generate": "paper", "devices": 3, "memory": "2 x model"},
}  # fmt: skip
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(json.dumps(EXPERIMENT))
    return tmp_path


def sweep_file(folder: Path, **changes: Any) -> Path:
    whole = {"experiment": "base.yaml", "policies": ["static"], "over": {"interval": [4, 8]}} | changes
    path = folder / "many.yaml"
    path.write_text(json.dumps({key: value for key, value in whole.items() if value is not None}))
    return path


# --- the file and the keys ---


def test_a_sweep_is_every_combination_of_values_policies_and_seeds(folder: Path) -> None:
    over = {"interval": [4, 8], "topology.devices": [3, 4]}
    runs = Sweep.load(sweep_file(folder, over=over, policies=["static", "greedy"], seeds=3)).runs()
    assert len(runs) == len({one.key for one in runs}) == 2 * 2 * 2 * 3
    assert [one.experiment.seed for one in runs[:4]] == [1, 2, 3, 1]
    assert runs[0].values == {"interval": 4, "topology.devices": 3} and len(runs[6].experiment.topology.devices) == 4


def test_a_policys_option_goes_to_the_policies_that_have_it(folder: Path) -> None:
    over = {"policy_options.effort": [0.1, 0.2]}
    options = [one.experiment.policy_options for one in
               Sweep.load(sweep_file(folder, over=over, policies=["headroom", "greedy"])).runs()]  # fmt: skip
    assert options == [{"effort": 0.1}, {}, {"effort": 0.2}, {}]
    with pytest.raises(ConfigError, match="many.yaml: none of the policies greedy has an option 'effort'"):
        Sweep.load(sweep_file(folder, over=over, policies=["greedy"])).runs()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"policy": "static"}, "did you mean 'policies'"),
        ({"experiment": None}, "experiment is nothing"),
        ({"experiment": "gone.yaml"}, "there is no such file"),
        ({"backend": "simulation"}, "backend is 'simulation'"),
        ({"seeds": 0}, "seeds is 0"),
        ({"seeds": [1, 1]}, "seeds has 1 twice"),
        ({"over": {"interval": 4}}, "over.interval is 4"),
        ({"over": {"policy": ["static"]}}, "'policies'"),
        ({"over": {"intervall": [4]}}, "did you mean 'interval'"),
        ({"over": {"interval": ["x"]}}, "many.yaml: "),
        ({"policies": ["stattic"]}, "did you mean 'static'"),
    ],
)
def test_a_slip_in_a_sweep_is_one_sentence_before_anything_runs(
    folder: Path, changes: dict[str, Any], words: str, capsys: Captured
) -> None:
    assert run(["sweep", str(sweep_file(folder, **changes)), "--out", str(folder / "out")]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert not (folder / "out").exists()


def test_a_key_changes_with_whatever_the_run_depends_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = Experiment.from_dict(EXPERIMENT)
    mine = folder / "mine.py"
    mine.write_text("class Mine: ...")
    keys = [
        run_key(base, "sim"), run_key(base, "local"),
        run_key(Experiment.from_dict(EXPERIMENT | {"seed": 1}), "sim"),
        run_key(Experiment.from_dict(EXPERIMENT | {"policy": f"{mine}:Mine"}), "sim"),
    ]  # fmt: skip
    mine.write_text("class Mine: x = 1")
    keys.append(run_key(Experiment.from_dict(EXPERIMENT | {"policy": f"{mine}:Mine"}), "sim"))
    monkeypatch.setattr("testbed.running.sweep_file.code_digest", lambda: "other code")
    keys.append(run_key(base, "sim"))
    assert len(set(keys)) == len(keys)
    monkeypatch.undo()
    assert run_key(Experiment.from_dict(EXPERIMENT), "sim") == keys[0]


def test_a_generated_topology_that_never_fits_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match="never fitted"):
        Sweep.load(sweep_file(folder, over={"topology.memory": ["0.5 x model"]})).runs()


# --- real runs ---


def start(folder: Path, file: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "testbed", "sweep", str(file), "--out", str(folder / "out"), "--json"]
    hear = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731  # a shell's job may not
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear, start_new_session=True
    )


def kept(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("out/many/rows/*.json")}


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_sweep_survives_a_killed_worker_and_goes_on_after_an_interrupt(folder: Path) -> None:
    file = sweep_file(folder, seeds=15, policies=["static", "round-robin"])
    first = start(folder, file)
    wait_for(lambda: len(kept(folder)) >= 5, first)
    children = psutil.Process(first.pid).children(recursive=True)
    (server,) = [child for child in children if child.children()]
    workers = server.children()
    assert len(workers) == min(60, os.cpu_count() or 1)
    sockets = [link for one in [psutil.Process(first.pid), *children] for link in one.net_connections("all")]
    assert {link.family for link in sockets} <= {socket.AF_UNIX}
    paths = {link.laddr for link in sockets if link.laddr}
    assert all(Path(path).parent.stat().st_mode & 0o077 == 0 for path in paths), paths
    assert os.geteuid() != 0 or let_in(listening([first.pid, *(child.pid for child in children)])) == []
    workers[0].kill()
    wait_for(lambda: len(kept(folder)) >= 20, first)
    os.killpg(first.pid, signal.SIGINT)  # as a terminal does
    _, said = first.communicate(timeout=30)
    assert first.returncode == 130 and "Traceback" not in said and "of 60 runs are kept" in said
    assert not psutil.wait_procs(children, timeout=5)[1]
    before = kept(folder)
    assert 20 <= len(before) < 60

    second = start(folder, file)
    out, said = second.communicate(timeout=90)
    assert second.returncode == 0, said
    document = json.loads(out)
    assert len(document["rows"]) == 60 and all(row["status"] == "done" for row in document["rows"])
    assert [line["runs"] for line in document["table"]] == [15] * 4
    after = kept(folder)
    assert all(after[name] == before[name] for name in before)
    finished = [len(list(one.glob("*/summary.json"))) for one in (folder / "out/many/runs").iterdir()]
    assert finished == [1] * 60  # none was carried out twice
    table = pq.read_table(folder / "out/many/sweep.parquet")
    assert len(table) == 60 and set(table["interval"].to_pylist()) == {4, 8}


def test_a_run_that_fails_alone_is_a_row_and_the_sweep_goes_on(folder: Path, capsys: Captured) -> None:
    (folder / "broken.py").write_text(
        "class Broken:\n"
        "    name = 'broken'\n"
        "    def reset(self, seed): ...\n"
        "    def decide(self, observation, placement):\n"
        "        raise ValueError('no idea')\n"
    )
    file = sweep_file(folder, policies=["static", f"{folder / 'broken.py'}:Broken"], over=None)
    command = ["sweep", str(file), "--out", str(folder / "out")]
    assert run([*command, "--json"]) == 0
    good, bad = json.loads(capsys.readouterr().out)["rows"]
    assert good["status"] == "done" and bad["status"] == "failed" and "no idea" in bad["error"]
    assert run(command) == 0
    captured = capsys.readouterr()
    assert "2 of 2 runs are there already" in captured.err and "static" in captured.out


def test_a_second_sweep_in_the_same_folder_is_refused_while_the_first_is_at_work(
    folder: Path, capsys: Captured
) -> None:
    command = ["sweep", str(sweep_file(folder)), "--out", str(folder / "out")]
    with SweepFolder(folder / "out/many").alone():
        assert run(command) == 2
    said = capsys.readouterr().err
    assert "out/many: another sweep is at work in this folder" in said and said.count("\n") == 1
    assert not kept(folder)
    assert run(command) == 0 and len(kept(folder)) == 2


@pytest.mark.parametrize("address", ["nonsense", "http://127.0.0.1:1", "tcp://127.0.0.1", ""])
def test_what_is_no_schedulers_address_is_refused_in_one_sentence(address: str, folder: Path, capsys: Captured) -> None:
    command = ["sweep", str(sweep_file(folder)), "--out", str(folder / "out"), "--scheduler", address]
    assert run(command) == 2
    assert f"--scheduler {address}: no address of a scheduler" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("summary", "kept"),
    [
        ({"status": "done"}, True),
        ({"status": "oom"}, True),
        ({"status": "failed", "error_kind": "RunFailed"}, True),
        ({"status": "failed"}, False),
    ],
)
def test_a_run_that_ended_is_not_made_again_and_one_that_was_cut_off_is(
    tmp_path: Path, summary: dict[str, str], kept: bool
) -> None:
    folder = SweepFolder(tmp_path).runs_folder("key") / "one"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    assert SweepFolder(tmp_path).find("key") == (summary if kept else None)


def test_a_sweep_that_cannot_begin_leaves_nothing_behind(folder: Path, capsys: Captured) -> None:
    file = sweep_file(folder, policies=["headroom"], over={"policy_options.effort": [1, -1]})
    assert run(["sweep", str(file), "--out", str(folder / "out")]) == 2
    assert "effort is -1" in capsys.readouterr().err and not (folder / "out").exists()


@pytest.mark.parametrize("verb", ["replay", "compare", "sweep"])
def test_a_file_where_the_run_folders_should_go_is_one_sentence(folder: Path, verb: str, capsys: Captured) -> None:
    (folder / "taken").write_text("mine")
    named = str(sweep_file(folder)) if verb == "sweep" else "experiments/small-scale.yaml"
    simulated = [] if verb == "sweep" else ["--backend", "sim", "--policy", "round-robin"]
    assert run([verb, named, *simulated, "--out", str(folder / "taken")]) == 2
    said = capsys.readouterr().err
    assert f"Error: {folder / 'taken'}" in said and "Traceback" not in said
    assert (folder / "taken").read_text() == "mine"


# --- a cluster ---


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    """A Dask cluster in this process, without workers."""
    with LocalCluster(
        n_workers=0, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address="127.0.0.1:0"
    ) as made:
        yield made


def test_a_cluster_carries_out_a_sweep_counts_each_end_and_carries_out_a_comparison(
    folder: Path, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.scale(2)
    cluster.wait_for_workers(2)
    counted: list[int] = []

    @contextmanager
    def bar(wanted: bool, total: int, label: str) -> Iterator[Callable[[int], None]]:
        assert (total, label) == (6, "many")
        yield counted.append if wanted else lambda done: None

    monkeypatch.setattr("testbed.running.sweep.progress_bar", bar)
    said: list[str] = []
    found = sweep(
        sweep_file(folder, seeds=3), scheduler=cluster.scheduler_address, dashboard=True, out=folder / "out",
        progress=True, tell=said.append,
    )  # fmt: skip
    assert counted == list(range(7))
    assert [row["status"] for row in found.summaries] == ["done"] * 6
    here = sweep(sweep_file(folder, seeds=3), out=folder / "here", tell=said.append)
    times = [[row["mean_token_ms"] for row in made.summaries] for made in (found, here)]
    assert times[0] == pytest.approx(times[1])
    assert said == [f"Dashboard: {cluster.dashboard_link}"]
    there, here = (
        testbed.compare(folder / "base.yaml", ["static", "greedy"], seeds=2, backend="sim", out=folder, scheduler=one)
        for one in (cluster.scheduler_address, None)
    )
    columns = ["policy", "seed", "status", "mean_token_ms"]
    pd.testing.assert_frame_equal(there.runs[columns], here.runs[columns])
    assert all(Path(path).is_dir() for path in there.runs["path"])


def test_it_is_said_that_no_worker_of_a_cluster_may_emulate(cluster: LocalCluster) -> None:
    address = cluster.scheduler_address
    assert remarks_on(address, True, False) == [f"No worker has joined {address} yet; the runs wait for one."]
    cluster.scale(1)
    cluster.wait_for_workers(1)
    assert remarks_on(address, True, False) == [
        f"No worker at {address} may emulate; the emulated runs wait for one that is started with "
        "`--resources emulation=1`, once on each machine."
    ]
    assert remarks_on(address, False, False) == []


def test_a_page_that_a_scheduler_does_not_have_is_no_dashboard(cluster: LocalCluster) -> None:
    assert not _is_missing(cluster.dashboard_link) and _is_missing(f"{cluster.dashboard_link}-of-another")


def test_a_scheduler_with_tls_needs_certificates(folder: Path, capsys: Captured) -> None:
    command = ["sweep", str(sweep_file(folder)), "--out", str(folder / "out"), "--scheduler", "tls://127.0.0.1:9"]
    assert run(command) == 2 and "Dask's configuration names no certificates" in capsys.readouterr().err


def test_a_dashboard_without_a_cluster_is_refused(folder: Path, capsys: Captured) -> None:
    for command in (["sweep", str(sweep_file(folder))], ["compare", str(folder / "base.yaml"), "--policy", "static"]):
        assert run([*command, "--out", str(folder / "out"), "--dashboard"]) == 2
        assert "so it needs --scheduler" in capsys.readouterr().err and not (folder / "out").exists()
