"""What a config.json of a Llama, Mistral or Qwen means, and what is refused in it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refusal

from testbed.decoder.families import shape_from_config
from testbed.errors import ConfigError
from testbed.models.presets import PRESETS
from testbed.shape import ModelShape, Rope

# The fields of TinyLlama-1.1B-Chat-v1.0's config.json.
TINYLLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "bos_token_id": 1, "eos_token_id": 2,
    "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 5632,
    "max_position_embeddings": 2048, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 22,
    "num_key_value_heads": 4, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 10000.0,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.35.0", "use_cache": True,
    "vocab_size": 32000,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip


def shape_of(kind: str, **changes: Any) -> ModelShape:
    config = {key: value for key, value in TINYLLAMA.items() if kind != "qwen2" or key != "attention_bias"}
    return shape_from_config(config | {"model_type": kind} | changes, "tinyllama-1.1b", "config.json")


def test_the_published_config_gives_the_presets_shape() -> None:
    assert shape_of("llama") == PRESETS["tinyllama-1.1b"]


def test_transformers_4_and_5_say_the_same_of_rotary_positions() -> None:
    new = {"rope_scaling": None, "rope_theta": None, "rope_parameters": {"rope_theta": 5e5} | LLAMA3}
    assert shape_of("llama", **new) == shape_of("llama", rope_theta=5e5, rope_scaling=LLAMA3)
    assert shape_of("llama", **new).rope == Rope(5e5, "llama3", 32.0, 1.0, 4.0, 8192)
    linear = shape_of("llama", rope_scaling={"type": "linear", "factor": 2})
    assert linear.rope == Rope(10_000.0, "linear", 2.0)


def test_missing_keys_have_transformers_defaults() -> None:
    bare = {key: value for key, value in TINYLLAMA.items() if not key.startswith(("num_key", "rope", "tie", "rms"))}
    shape = shape_from_config(bare)
    assert (shape.kv_heads, shape.rope, shape.tied_embedding, shape.norm_epsilon) == (32, Rope(10_000.0), False, 1e-6)
    assert shape_of("qwen3", head_dim=None).head_dim == 128
    assert shape_of("mistral").window == 4096


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        ("llama", {"attention_bias": True}, {"qkv_bias": True, "proj_bias": True, "ffn_bias": False}),
        ("llama", {"mlp_bias": True}, {"qkv_bias": False, "proj_bias": False, "ffn_bias": True}),
        ("qwen2", {}, {"qkv_bias": True, "proj_bias": False, "qk_norm": False}),
        ("qwen3", {"head_dim": 128}, {"qkv_bias": False, "qk_norm": True, "head_dim": 128}),
        ("qwen3", {"attention_bias": True}, {"qkv_bias": True, "proj_bias": True}),
        ("mistral", {"sliding_window": None}, {"window": None, "window_from": 0}),
        ("mistral", {"sliding_window": 512}, {"window": 512, "window_from": 0}),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 512, "max_window_layers": 4}, {"window": None}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 512, "max_window_layers": 4},
         {"window": 512, "window_from": 4}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 512, "max_window_layers": 22}, {"window": None}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 512, "max_window_layers": 4,
                   "layer_types": ["full_attention"] * 3 + ["sliding_attention"] * 19}, {"window_from": 3}),
        ("qwen2", {"layer_types": ["full_attention"] * 22}, {"window": None}),
    ],
)  # fmt: skip
def test_what_a_family_adds_is_part_of_the_shape(kind: str, changes: dict[str, Any], expected: dict[str, Any]) -> None:
    shape = shape_of(kind, **changes)
    assert shape == replace(shape, **expected)


@pytest.mark.parametrize(
    ("kind", "changes", "told"),
    [
        ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu', but only 'silu' can be computed"),
        ("llama", {"num_attention_heads": 30}, "num_attention_heads is 30, which is not a multiple of num_key_value"),
        ("llama", {"hidden_size": 2050}, "hidden_size is 2050, which is not a multiple of num_attention_heads, 32"),
        ("llama", {"head_dim": 63}, "heads are of 63 numbers, but rotary positions turn pairs of them"),
        ("llama", {"sliding_window": 512}, "'sliding_window' is 512, and no family here knows what that changes"),
        ("llama", {"num_local_experts": 8}, "'num_local_experts' is 8, but a mixture of experts cannot be computed"),
        ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 2}}, "rope_type is 'yarn', but it must be"),
        ("llama", {"rope_scaling": {"rope_type": "linear"}}, "rope_scaling: factor is nothing"),
        ("llama", {"rope_scaling": {"rope_type": "linear", "factor": -1}}, "factor is -1, but it must be"),
        ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 2, "beta": 1}}, "'beta' is 1, and no"),
        ("llama", {"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}}, "low_freq_factor is 1, which is not below"),
        ("llama", {"rope_scaling": "linear"}, "rope_scaling is 'linear', but it must be a mapping"),
        ("llama", {"rope_scaling": LLAMA3, "rope_parameters": {}}, "there are both rope_scaling and rope_parameters"),
        ("llama", {"rope_theta": float("nan")}, "rope_theta is nan"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, but only 1.0 can be computed"),
        ("llama", {"attention_bias": "yes"}, "attention_bias is 'yes', but it must be true or false"),
        ("mistral", {"num_key_value_heads": 5}, "num_attention_heads is 32, which is not a multiple"),
        ("mistral", {"attention_bias": True}, "attention_bias is True, but only False can be computed"),
        ("mistral", {"sliding_window": 0}, "sliding_window is 0"),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": -1}, "max_window_layers is -1"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 22}, "layer_types is ['sliding_attention', "),
        ("qwen2", {"layer_types": 7}, "layer_types is 7, but only layers with full_attention before"),
        ("qwen3", {"mlp_bias": True}, "mlp_bias is True, but only False can be computed"),
    ],
)  # fmt: skip
def test_what_cannot_be_computed_is_one_sentence_with_file_key_and_value(
    kind: str, changes: dict[str, Any], told: str
) -> None:
    refusal(lambda: shape_of(kind, **changes), told, begin="config.json: ")


def test_mistral_and_qwen_must_say_their_number_of_kv_heads() -> None:
    config = {key: value for key, value in TINYLLAMA.items() if key != "num_key_value_heads"}
    with pytest.raises(ConfigError, match="num_key_value_heads is nothing"):
        shape_from_config(config | {"model_type": "mistral"})


_odd = st.none() | st.booleans() | st.integers(-2, 99) | st.floats() | st.text(max_size=3) | st.just([]) | st.just({})
_ropes = st.dictionaries(st.sampled_from([*LLAMA3, "type", "rope_theta"]), _odd | st.sampled_from(["linear", "llama3"]))
_keys = st.sampled_from(sorted({*TINYLLAMA, "head_dim", "sliding_window", "use_sliding_window", "max_window_layers",
                                "layer_types", "rope_parameters", "mlp_bias"}))  # fmt: skip


@given(st.sampled_from(["llama", "mistral", "qwen2", "qwen3"]), st.dictionaries(_keys, _odd | _ropes, max_size=4))
def test_any_config_gives_a_sound_shape_or_a_config_error(kind: str, changes: dict[str, Any]) -> None:
    try:
        shape = shape_of(kind, **changes | {"model_type": kind})
    except ConfigError:
        return
    assert shape.heads % shape.kv_heads == 0 and shape.head_dim % 2 == 0
    assert min(shape.layers, shape.vocab, shape.positions, shape.ffn_width, shape.width) >= 1
