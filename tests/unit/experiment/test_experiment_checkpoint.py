"""A Hugging Face checkpoint as an experiment's model: its shape, and what may be missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkpoint_cases import write_checkpoint
from hypothesis import given
from hypothesis import strategies as st
from refusals import computed_within, refusal

from testbed.decoder.checkpoint import read_shape
from testbed.decoder.families import shape_from_config
from testbed.errors import ConfigError
from testbed.experiment.schema import Experiment
from testbed.models.presets import PRESETS
from testbed.shape import ModelShape

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
    """A folder with all files of a small checkpoint."""
    small = GPT2 | {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 64, "vocab_size": 100, "n_inner": 48}
    return write_checkpoint(tmp_path / "small-gpt2", small)


def load(checkpoint: Path, *overrides: str, **changes: Any) -> Experiment:
    """An experiment file beside the checkpoint, loaded."""
    mapping = {"model": {"path": checkpoint.name}, "prompt": "hello", "tokens": 4}
    mapping |= {"topology": {"source": "a", "devices": {"a": DEVICE}}}
    path = checkpoint.parent / "own.yaml"
    path.write_text(yaml.safe_dump(mapping | changes))
    return Experiment.load(path, overrides)


def error_of(checkpoint: Path, *overrides: str, **changes: Any) -> str:
    return refusal(lambda: load(checkpoint, *overrides, **changes))


def test_the_published_gpt2_config_gives_the_presets_shape() -> None:
    assert shape_from_config(GPT2, "gpt2") == PRESETS["gpt2"]
    assert shape_from_config(GPT2 | {"n_inner": None}, "gpt2") == PRESETS["gpt2"]


def test_a_config_saved_by_transformers_is_read(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_embd=48, n_head=3, n_layer=2, n_positions=32, vocab_size=77)
    config.save_pretrained(tmp_path)
    assert read_shape(tmp_path) == ModelShape(tmp_path.name, 2, 48, 3, 3, 16, 192, 77, 32)


def test_keys_that_leave_the_arithmetic_alone_are_taken() -> None:
    harmless = {"n_ctx": 1024, "_num_labels": 1, "summary_type": "cls_index", "top_k": 50, "new_key": None}
    assert shape_from_config(GPT2 | harmless, "gpt2") == PRESETS["gpt2"]


def test_activations_and_scales_of_gpt2s_relatives_are_part_of_the_shape() -> None:
    for name, computed in (("gelu_new", "gelu_new"), ("gelu_pytorch_tanh", "gelu_new"), ("gelu", "gelu")):
        assert shape_from_config(GPT2 | {"activation_function": name}).activation == computed
    assert shape_from_config(GPT2 | {"scale_attn_by_inverse_layer_idx": True}).attention_scale_by_layer


def test_untied_embeddings_and_epsilon_are_part_of_the_shape() -> None:
    shape = shape_from_config(GPT2 | {"tie_word_embeddings": False, "layer_norm_epsilon": 1e-6})
    assert (shape.tied_embedding, shape.norm_epsilon) == (False, 1e-6)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model_type": "mixtral"}, "model_type is 'mixtral', but it must be one of 'gpt2', 'llama'"),
        ({"model_type": None}, "model_type is nothing"),
        ({"activation_function": "relu"}, "activation_function is 'relu', but only 'gelu_new'"),
        ({"activation_function": ["gelu"]}, "activation_function is ['gelu'], but only 'gelu_new'"),
        ({"scale_attn_by_inverse_layer_idx": 1}, "scale_attn_by_inverse_layer_idx is 1, but it must be true or false"),
        ({"scale_attn_weights": False}, "scale_attn_weights is False, but only True can be computed"),
        ({"add_cross_attention": True}, "add_cross_attention is True, but only False can be computed"),
        ({"rotary_dim": 64}, "'rotary_dim' is 64, and no family here knows what that changes"),
        ({"some_new_flag": False}, "'some_new_flag' is False, and no family here knows"),
        ({"num_experts": 8}, "'num_experts' is 8, but a mixture of experts cannot be computed"),
        ({"n_head": 7}, "n_embd is 768, which is not a multiple of n_head, 7"),
        ({"n_layer": 0}, "n_layer is 0"),
        ({"n_layer": "12"}, "n_layer is '12'"),
        ({"n_layer": True}, "n_layer is True"),
        ({"vocab_size": None}, "vocab_size is nothing"),
        ({"n_layer": 10**9}, "n_layer is 1000000000, but it must be a whole number from 1 to 16777216"),
        ({"n_layer": -1}, "n_layer is -1"),
        ({"n_embd": 768.0}, "n_embd is 768.0"),
        ({"n_positions": float("inf")}, "n_positions is inf"),
        ({"n_inner": 10**6000}, "n_inner is a number of thousands of digits"),
        ({"num_hidden_layers": 6}, "n_layer is 12 and num_hidden_layers 6, but both mean the same"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false', but it must be true or false"),
        ({"layer_norm_epsilon": {}}, "layer_norm_epsilon is {}, but it must be a number between 0 and 1"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon is nan"),
        ({"layer_norm_epsilon": -1e-5}, "layer_norm_epsilon is -1e-05"),
        ({"layer_norm_epsilon": 10**400}, "layer_norm_epsilon is 1000"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config is {'quant_method': 'fp8'}, so the"),
        ({"quantization_config": {"load_in_8bit": True}}, "the weights are quantised; they must be plain float32"),
        ({"compression_config": {"format": "x"}}, "the weights are compressed"),
        ({"transformers_weights": "other.safetensors"}, "in another file than model.safetensors"),
        ({"dtype": "float8_e4m3fn"}, "dtype is 'float8_e4m3fn', but it must be one of float32, float16, bfloat16"),
        ({"torch_dtype": "torch.int8"}, "torch_dtype is 'torch.int8'"),
        ({"torch_dtype": ["x"] * 1000}, "torch_dtype is ['x', 'x'"),
    ],
)
def test_another_architecture_is_refused_in_one_sentence(changes: dict[str, Any], expected: str) -> None:
    refusal(lambda: shape_from_config(GPT2 | changes, origin="x/config.json"), expected, begin="x/config.json: ")


@given(st.dictionaries(st.sampled_from(sorted(GPT2)), st.none() | st.integers() | st.text(max_size=3) | st.booleans()))
def test_any_config_gives_a_sound_shape_or_a_config_error(changes: dict[str, Any]) -> None:
    try:
        shape = shape_from_config(GPT2 | changes)
    except ConfigError:
        return
    assert shape.heads * shape.head_dim == shape.width and min(shape.layers, shape.vocab, shape.positions) >= 1


@pytest.mark.parametrize("dtype", [None, "float32", "torch.bfloat16", "float16", "float64", "auto"])
def test_plain_types_of_weights_are_taken(dtype: str | None) -> None:
    assert shape_from_config(GPT2 | {"dtype": dtype, "torch_dtype": dtype}, "gpt2") == PRESETS["gpt2"]


def test_transformers_other_names_for_dimensions_are_read() -> None:
    config = {key: value for key, value in GPT2.items() if key not in ("n_embd", "n_layer", "n_head", "n_positions")}
    config |= {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "max_position_embeddings": 1024}
    assert shape_from_config(config, "gpt2") == PRESETS["gpt2"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"[" * 10**6, "nested too deeply"),
        (b'{"n_layer": 1' + b"0" * 5000 + b"}", "config.json"),
        (b'{"model_type": "gpt2\xff"}', "is not JSON"),
        (b'{"a": ' + b" " * (8 << 20) + b"1}", "too large"),
        (b"[]", "the file must be a mapping"),
        (b"", "is not JSON"),
    ],
)
def test_a_config_that_cannot_be_read_is_one_sentence_within_a_second(
    checkpoint: Path, content: bytes, told: str
) -> None:
    (checkpoint / "config.json").write_bytes(content)
    with computed_within(1):
        message = error_of(checkpoint)
    assert message.startswith(f"{checkpoint / 'config.json'}") and told in message


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.layers=10000000", "cut into 60000001 blocks, but at most 32768 can be placed: use fewer layers"),
        ("model.heads=10000000", "blocks, but at most 32768 can be placed"),
        ("model.layers=1" + "0" * 18, "model.layers is 10000000"),
        ("model.layers=1" + "0" * 4000, "no number that anything here needs"),
        ("model.vocab=1" + "0" * 18, "model.vocab is 1000000"),
        ("partition.vocab_shards=1" + "0" * 18, "at most 32768 can be placed: use fewer shards"),
        ("partition.ffn_shards=1073741824", "at most 32768 can be placed: use fewer shards"),
    ],
)
def test_a_giant_model_is_one_sentence_within_a_second(checkpoint: Path, override: str, told: str) -> None:
    error_of(checkpoint, "tokens=0", model={"preset": "tiny"})  # so that no module's import is timed
    with computed_within(1):
        message = error_of(checkpoint, override, model={"preset": "tiny"})
    assert f"{override.partition('=')[0]}=" in message and told in message


def test_a_config_of_a_giant_model_is_one_sentence_within_a_second(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text()) | {"n_layer": 2**24}
    (checkpoint / "config.json").write_text(json.dumps(config))
    with computed_within(1):
        assert "has no tensor 'transformer.h.2.ln_1.weight'" in error_of(checkpoint)
        (checkpoint / "model.safetensors").unlink()
        assert "at most 32768 can be placed" in error_of(checkpoint)


def test_an_experiment_takes_its_shape_from_the_checkpoint(checkpoint: Path) -> None:
    experiment = load(checkpoint)
    assert experiment.shape == ModelShape("small-gpt2", 2, 32, 4, 4, 8, 48, 100, 64)
    assert experiment.prompt_tokens is None  # only its tokeniser knows
    formats = {"kv_format": "float32", "wire_format": "float32"}
    assert experiment.to_dict()["model"] == {"path": str(checkpoint), "random": False, "seed": 0} | formats
    assert Experiment.from_dict(json.loads(json.dumps(experiment.to_dict()))) == experiment


def test_an_override_swaps_preset_and_checkpoint(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(checkpoint, "model.preset=tiny").model.path is None
    monkeypatch.chdir(checkpoint.parent)
    swapped = load(checkpoint, "model.path=small-gpt2", model={"preset": "tiny"})
    assert (swapped.model.preset, swapped.model.path) == (None, str(checkpoint))


def test_a_missing_shard_is_named(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    index = {"weight_map": {"wte.weight": "model-00002-of-00002.safetensors"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    assert str(checkpoint / "model-00002-of-00002.safetensors") in error_of(checkpoint)


def test_a_missing_config_is_named(checkpoint: Path) -> None:
    (checkpoint / "config.json").unlink()
    message = error_of(checkpoint)
    assert f"{checkpoint / 'config.json'}: there is no such file" in message


def test_a_missing_checkpoint_folder_is_named(checkpoint: Path) -> None:
    message = error_of(checkpoint, model={"path": "elsewhere"})
    assert str(checkpoint.parent / "elsewhere") in message and "model.path" in message
    (checkpoint.parent / "circle").symlink_to("circle")
    for path in ("a\0b", "circle"):
        assert "which is no path" in error_of(checkpoint, model={"path": path})


def test_a_damaged_config_is_named(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text("{")
    message = error_of(checkpoint)
    assert f"{checkpoint / 'config.json'} is not JSON" in message


def test_prompt_and_tokens_must_fit_the_checkpoints_positions(checkpoint: Path) -> None:
    assert "65 positions" in error_of(checkpoint, prompt={"ids": [1]}, tokens=64)
    assert load(checkpoint, prompt={"ids": [1]}, tokens=63).tokens == 63
