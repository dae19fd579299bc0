"""A Hugging Face checkpoint as an experiment's model: its shape, and what may be missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from testbed.errors import ConfigError
from testbed.experiment import Experiment
from testbed.hf_config import read_shape, shape_from_config
from testbed.shape import PRESETS, ModelShape

# The fields of the published `gpt2` checkpoint's config.json that matter here.
GPT2: dict[str, Any] = {
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "vocab_size": 50257,
}
DEVICE = {"catalogue": "jetson-nano", "link": {"rate": "100 Mbit/s"}}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder with all files of a small checkpoint; the weights are empty, nobody reads them here."""
    folder = tmp_path / "small-gpt2"
    folder.mkdir()
    small = GPT2 | {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 64, "vocab_size": 100, "n_inner": 48}
    (folder / "config.json").write_text(json.dumps(small))
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def load(checkpoint: Path, *overrides: str, **changes: Any) -> Experiment:
    """An experiment file beside the checkpoint, loaded."""
    mapping = {"model": {"path": checkpoint.name}, "prompt": "hello", "tokens": 4}
    mapping |= {"topology": {"source": "a", "devices": {"a": DEVICE}}}
    path = checkpoint.parent / "own.yaml"
    path.write_text(yaml.safe_dump(mapping | changes))
    return Experiment.load(path, overrides)


def error_of(checkpoint: Path, *overrides: str, **changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(checkpoint, *overrides, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_published_gpt2_config_gives_the_presets_shape() -> None:
    assert shape_from_config(GPT2, "gpt2") == PRESETS["gpt2"]
    assert shape_from_config(GPT2 | {"n_inner": None}, "gpt2") == PRESETS["gpt2"]


def test_a_config_saved_by_transformers_is_read(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_embd=48, n_head=3, n_layer=2, n_positions=32, vocab_size=77)
    config.save_pretrained(tmp_path)
    assert read_shape(tmp_path) == ModelShape(tmp_path.name, 2, 48, 3, 3, 16, 192, 77, 32)


def test_untied_embeddings_and_epsilon_are_part_of_the_shape() -> None:
    shape = shape_from_config(GPT2 | {"tie_word_embeddings": False, "layer_norm_epsilon": 1e-6})
    assert (shape.tied_embedding, shape.norm_epsilon) == (False, 1e-6)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model_type": "llama"}, "model_type is 'llama', but it must be 'gpt2'"),
        ({"model_type": None}, "model_type is nothing"),
        ({"activation_function": "relu"}, "activation_function is 'relu', but only 'gelu_new'"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ({"n_head": 7}, "n_embd is 768, which is not a multiple of n_head, 7"),
        ({"n_layer": 0}, "n_layer is 0"),
        ({"n_layer": "12"}, "n_layer is '12'"),
        ({"n_layer": True}, "n_layer is True"),
        ({"vocab_size": None}, "vocab_size is nothing"),
    ],
)
def test_another_architecture_is_refused_in_one_sentence(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        shape_from_config(GPT2 | changes, origin="x/config.json")
    assert str(caught.value).startswith("x/config.json: ") and expected in str(caught.value)


@given(st.dictionaries(st.sampled_from(sorted(GPT2)), st.none() | st.integers() | st.text(max_size=3) | st.booleans()))
def test_any_config_gives_a_sound_shape_or_a_config_error(changes: dict[str, Any]) -> None:
    try:
        shape = shape_from_config(GPT2 | changes)
    except ConfigError:
        return
    assert shape.heads * shape.head_dim == shape.width and min(shape.layers, shape.vocab, shape.positions) >= 1


def test_an_experiment_takes_its_shape_from_the_checkpoint(checkpoint: Path) -> None:
    experiment = load(checkpoint)
    assert experiment.shape == ModelShape("small-gpt2", 2, 32, 4, 4, 8, 48, 100, 64)
    assert experiment.prompt_tokens is None  # only its tokeniser knows
    assert experiment.to_dict()["model"] == {"path": str(checkpoint), "seed": 0}
    assert Experiment.from_dict(json.loads(json.dumps(experiment.to_dict()))) == experiment


def test_an_override_swaps_preset_and_checkpoint(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(checkpoint, "model.preset=tiny").model.path is None
    monkeypatch.chdir(checkpoint.parent)
    swapped = load(checkpoint, "model.path=small-gpt2", model={"preset": "tiny"})
    assert (swapped.model.preset, swapped.model.path) == (None, str(checkpoint))


def test_sharded_weights_are_enough(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"wte.weight": "model-00001-of-00001.safetensors"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    assert load(checkpoint).shape.layers == 2


def test_a_missing_shard_is_named(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    index = {"weight_map": {"wte.weight": "model-00002-of-00002.safetensors"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    assert str(checkpoint / "model-00002-of-00002.safetensors") in error_of(checkpoint)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_missing_checkpoint_file_is_named(checkpoint: Path, file: str) -> None:
    (checkpoint / file).unlink()
    message = error_of(checkpoint)
    assert f"{checkpoint / file}: there is no such file" in message


def test_a_missing_checkpoint_folder_is_named(checkpoint: Path) -> None:
    message = error_of(checkpoint, model={"path": "elsewhere"})
    assert str(checkpoint.parent / "elsewhere") in message and "model.path" in message


def test_a_damaged_config_is_named(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text("{")
    message = error_of(checkpoint)
    assert f"{checkpoint / 'config.json'}, line 1" in message


def test_prompt_and_tokens_must_fit_the_checkpoints_positions(checkpoint: Path) -> None:
    assert "65 positions" in error_of(checkpoint, prompt={"ids": [1]}, tokens=64)
    assert load(checkpoint, prompt={"ids": [1]}, tokens=63).tokens == 63
