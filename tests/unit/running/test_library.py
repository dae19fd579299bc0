"""The library as a notebook uses it: what one call gives, raises and prints, and what importing it costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import testbed
from testbed.analysis import Run
from testbed.emulation.mininet_checks import MininetSupport
from testbed.errors import ConfigError, EnvironmentLacks, RunFailed
from testbed.running.backends import BACKENDS, Backend, choose_backend, find_backend

ROOT = Path(__file__).parents[3]
SMALL = ROOT / "experiments" / "small-scale.yaml"
QUICKSTART = ROOT / "experiments" / "gpt2-star4.yaml"
OFFERED = [
    "Experiment", "Observation", "Placement", "Policy", "Topology", "Trace", "compare", "load_run", "replay",
    "resume", "sweep",
]  # fmt: skip
NOTEBOOK = f"""
import testbed
run = testbed.replay({str(SMALL)!r}, backend="sim", policy="greedy", seed=3, tokens=8)
assert len(run.tokens) == 8 and run.summary["status"] == "done" and run.folder.is_dir()
table = testbed.compare(
    {str(SMALL)!r}, policies=["greedy", "round-robin"], seeds=2, backend="sim", tokens=8
)
assert len(table.runs) == 4 and list(table.table["policy"]) == ["greedy", "round-robin"]
import analysis
assert analysis.MINE
"""
ANALYSIS_OF_MY_OWN = "MINE = True\n"


def python(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "notebook.py").write_text(program)
    return subprocess.run(
        [sys.executable, "notebook.py"], cwd=folder, capture_output=True, text=True, timeout=110, check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(["", str(ROOT)])},
    )  # fmt: skip


def test_the_lines_of_the_readme_work_in_another_folder_beside_a_folder_named_analysis(tmp_path: Path) -> None:
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "__init__.py").write_text(ANALYSIS_OF_MY_OWN)
    done = python(NOTEBOOK, tmp_path)  # a plain script: its workers must not run it again
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and done.stderr == ""
    assert len(list((tmp_path / "runs").glob("*-small-scale-*/summary.json"))) == 5


def test_the_package_offers_its_names_and_imports_nothing_for_them(tmp_path: Path) -> None:
    assert {*OFFERED, "__version__"} == set(testbed.__all__) <= set(dir(testbed))
    assert all(getattr(testbed, name).__doc__ for name in OFFERED)
    with pytest.raises(AttributeError, match="no attribute 'relpay'"):
        testbed.relpay  # noqa: B018
    program = "import sys, testbed; dir(testbed); print([name for name in sys.modules if name.startswith('testbed.')])"
    assert python(program, tmp_path).stdout == "['testbed.version']\n"


def test_a_run_is_what_load_run_gives_and_its_folder_stays(tmp_path: Path) -> None:
    run = testbed.replay(SMALL, backend="sim", policy="greedy", tokens=8, out=tmp_path)
    assert isinstance(run, Run) and run.folder.parent == tmp_path and run.policy == "greedy"
    assert testbed.load_run(run.folder).tokens.equals(run.tokens)
    assert "<table" in run._repr_html_()


def test_overrides_are_a_mapping_or_texts_and_an_experiment_takes_them_too(tmp_path: Path) -> None:
    experiment = testbed.Experiment.load(SMALL, ["tokens=8", "policy=greedy"])
    options: dict[str, Any] = {"backend": "sim", "out": tmp_path}
    runs = [
        testbed.replay(SMALL, policy="greedy", overrides=["tokens=8", "interval=2"], **options),
        testbed.replay(SMALL, policy="greedy", overrides={"tokens": 8, "interval": 2}, **options),
        testbed.replay(experiment, overrides={"interval": 2}, **options),
    ]
    assert [len(run.decisions) for run in runs] == [4, 4, 4]
    first, *others = (list(run.tokens["latency_s"]) for run in runs)
    assert others == [first, first]
    with pytest.raises(ConfigError, match="did you mean 'interval'"):
        testbed.replay(SMALL, overrides={"intervall": 2}, **options)


def test_a_comparison_is_a_table_in_a_notebook_and_holds_what_json_prints(tmp_path: Path) -> None:
    found = testbed.compare(SMALL, ["greedy", "exact"], seeds=2, backend="sim", tokens=8, out=tmp_path)
    assert json.loads(json.dumps(found.document()))["table"][0]["policy"] == "greedy"
    assert 1.0 <= found.table.loc[1, "ratio_to_exact"] < 1.01 and len(found.runs) == 4
    assert found.table.loc[1, "exact_is"] == {"optimum": 2}  # with one decision nothing can be saved later
    html = found._repr_html_()
    assert "<table" in html and "95 % interval" in html and "2 of 2" in html
    assert found.file.parent == tmp_path and "4 runs" in repr(found)


def test_a_sweep_is_a_comparison_with_the_swept_keys_first(tmp_path: Path) -> None:
    file = tmp_path / "many.yaml"
    whole = {"experiment": str(SMALL), "policies": ["greedy"], "over": {"tokens": [4, 8], "traces": [[]]}}
    file.write_text(json.dumps(whole))
    found = testbed.sweep(file, out=tmp_path)
    assert list(found.table.columns[:2]) == ["tokens", "traces"] and list(found.table["tokens"]) == [4, 8]
    assert "<table" in found._repr_html_() and list(found.runs["tokens"]) == [4, 8]
    assert testbed.sweep(file, out=tmp_path).document() == found.document()


def test_what_goes_wrong_is_an_error_of_the_testbed_and_nothing_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        testbed.replay("nowhere.yaml")
    with pytest.raises(ConfigError, match="there is no backend 'simm': it must be one of mininet, local, sim"):
        testbed.replay(SMALL, backend="simm")
    with pytest.raises(RunFailed, match="device b ran out of memory at token 48"):
        testbed.replay(QUICKSTART, backend="sim", policy="static", out=tmp_path)
    assert capfd.readouterr() == ("", "")


def test_a_remark_goes_to_whoever_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    heard: list[str] = []
    support = MininetSupport(["Mininet is missing"], None)
    monkeypatch.setattr("testbed.emulation.mininet_checks.mininet_support", lambda: support)
    assert choose_backend(None, heard.append) == "local" and heard == ["Backend local: Mininet is missing."]
    with pytest.raises(EnvironmentLacks, match="backend mininet cannot run here: .*; `--backend local` can"):
        choose_backend("mininet", heard.append)
    names = [device.name for device in testbed.Experiment.load(SMALL).topology.devices]
    squeeze = {"name": "m", "changes": [[4, f"device/{name}", "memory", 1.0] for name in names]}
    overrides = {"traces": [squeeze | {"end": "hold", "period": None}]}
    testbed.replay(SMALL, backend="sim", policy="greedy", tokens=16, out=tmp_path, overrides=overrides)
    assert {record.name for record in caplog.records} == {"testbed"} and "no placement can fit" in caplog.text


def test_a_backend_is_one_row_that_says_what_it_needs() -> None:
    assert list(BACKENDS) == ["mininet", "local", "sim"]
    assert all(isinstance(row, Backend) and find_backend(name) is row for name, row in BACKENDS.items())
    assert [row.capsule for row in BACKENDS.values()] == [True, False, False]
    assert [row.emulated for row in BACKENDS.values()] == [True, True, False]


# --- arguments that no command line can give ------------------------------------------------------------


def test_one_policy_may_be_given_by_itself_and_one_override_too(tmp_path: Path) -> None:
    found = testbed.compare(SMALL, "greedy", backend="sim", tokens=4, overrides="interval=2", out=tmp_path)
    assert list(found.table["policy"]) == ["greedy"]


def test_a_number_of_numpy_is_a_value_like_any_other(tmp_path: Path) -> None:
    run = testbed.replay(
        SMALL, backend="sim", overrides={"tokens": np.int64(5), "dilation": np.float32(2)}, out=tmp_path
    )
    assert len(run.tokens) == 5


@pytest.mark.parametrize(
    "given, told",
    [
        ({"overrides": {"tokens": object()}}, "cannot be an experiment's value"),
        ({"calibrate": "no"}, "calibrate is 'no', but it must be one of 'off', 'quick', 'full'"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(given: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=told):
        testbed.replay(SMALL, backend="sim", policy="single", tokens=2, out=tmp_path, **given)


@pytest.mark.parametrize("given", [{"policies": []}, {"policies": ["single"], "seeds": 0}])
def test_a_comparison_of_nothing_is_refused(given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a comparison needs at least one of both"):
        testbed.compare(SMALL, backend="sim", out=tmp_path, **given)
