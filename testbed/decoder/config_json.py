"""A Hugging Face checkpoint's config.json: what shape the model has, and whether we can compute it.

Only the GPT-2 family is known, and every setting that would change its arithmetic is refused rather than ignored.
`testbed.decoder.checkpoint` looks at the weights beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from testbed.errors import ConfigError
from testbed.shape import LARGEST_DIMENSION, ModelShape
from testbed.strict_json import read_object
from testbed.strict_yaml import shown

CONFIG = "config.json"
JSON_BYTES = 8 * 2**20  # config.json or an index; the index of a model of 671 billion parameters has 9 MB

# What the decoder computes; transformers' GPT2Config defaults. A checkpoint that says otherwise is another model.
_FIXED: dict[str, Any] = {
    "activation_function": "gelu_new",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
# Keys that say that the weights are not the plain tensors that the decoder reads, and why not.
_ABSENT = {
    "quantization_config": "are quantised",
    "compression_config": "are compressed",
    "transformers_weights": "are in another file than model.safetensors",
}
_DTYPE_KEYS = ("dtype", "torch_dtype")
_DTYPES = ("float32", "float16", "bfloat16", "float64", "auto")
_ALSO_CALLED = {  # transformers takes either name, and the one that stands later wins
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_layer": "num_hidden_layers",
    "n_positions": "max_position_embeddings",
}


def shape_from_config(config: Mapping[str, Any], name: str = "model", origin: str = CONFIG) -> ModelShape:
    """The shape that a GPT-2 config.json describes; raises ConfigError naming `origin`, the key and the value."""
    if config.get("model_type") != "gpt2":
        raise ConfigError(f"{origin}: model_type is {shown(config.get('model_type'))}, but it must be 'gpt2'")
    for key, wanted in _FIXED.items():
        if config.get(key, wanted) != wanted:
            raise ConfigError(f"{origin}: {key} is {shown(config[key])}, but only {wanted!r} can be computed")
    _check_weights_are_plain(config, origin)
    width, heads = _count(config, "n_embd", origin), _count(config, "n_head", origin)
    if width % heads:
        raise ConfigError(f"{origin}: n_embd is {width}, which is not a multiple of n_head, {heads}")
    tied = config.get("tie_word_embeddings", True)
    if not isinstance(tied, bool):
        raise ConfigError(f"{origin}: tie_word_embeddings is {shown(tied)}, but it must be true or false")
    return ModelShape(
        name=name,
        layers=_count(config, "n_layer", origin),
        width=width,
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        ffn_width=4 * width if config.get("n_inner") is None else _count(config, "n_inner", origin),
        vocab=_count(config, "vocab_size", origin),
        positions=_count(config, "n_positions", origin),
        tied_embedding=tied,
        norm_epsilon=_epsilon(config, origin),
    )


def read_shape(folder: Path) -> ModelShape:
    """The shape of the checkpoint in `folder`; raises ConfigError naming config.json."""
    path = folder / CONFIG
    return shape_from_config(read_object(path, JSON_BYTES), name=folder.name, origin=str(path))


def _check_weights_are_plain(config: Mapping[str, Any], origin: str) -> None:
    """Raise a ConfigError where the config says that weights are quantised, or of a type that is not computed with."""
    for key, why in _ABSENT.items():
        if config.get(key) is not None:
            raise ConfigError(
                f"{origin}: {key} is {shown(config[key])}, so the weights {why}; they must be plain "
                "float32, float16, bfloat16 or float64 tensors in model.safetensors"
            )
    for key in _DTYPE_KEYS:
        value = config.get(key)
        if value is not None and str(value).removeprefix("torch.") not in _DTYPES:
            raise ConfigError(f"{origin}: {key} is {shown(value)}, but it must be one of {', '.join(_DTYPES)}")


def _count(config: Mapping[str, Any], key: str, origin: str) -> int:
    other = _ALSO_CALLED.get(key, key)
    if key in config and other in config and config[key] != config[other]:
        raise ConfigError(
            f"{origin}: {key} is {shown(config[key])} and {other} {shown(config[other])}, but both mean the same"
        )
    value = config.get(key, config.get(other))
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST_DIMENSION:
        wanted = f"a whole number from 1 to {LARGEST_DIMENSION}"
        raise ConfigError(f"{origin}: {key} is {shown(value)}, but it must be {wanted}")
    return value


def _epsilon(config: Mapping[str, Any], origin: str) -> float:
    value = config.get("layer_norm_epsilon", 1e-5)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1:
        raise ConfigError(
            f"{origin}: layer_norm_epsilon is {shown(value)}, but it must be a number between 0 and 1, such as 1e-05"
        )
    return float(value)
