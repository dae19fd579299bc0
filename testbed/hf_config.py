"""A Hugging Face checkpoint folder, seen from outside: is it all there, and what shape has the model?

Reads config.json and looks for the weight files; the decoder reads the weights. Only the GPT-2 family is known,
and every setting that would change its arithmetic is refused rather than ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from testbed.errors import ConfigError
from testbed.files import read_text
from testbed.shape import ModelShape
from testbed.strict_yaml import require_mapping, shown

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
SHARD_INDEX = "model.safetensors.index.json"

# What the decoder computes; transformers' GPT2Config defaults. A checkpoint that says otherwise is another model.
_FIXED: dict[str, Any] = {
    "activation_function": "gelu_new",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


def shape_from_config(config: Mapping[str, Any], name: str = "model", origin: str = CONFIG) -> ModelShape:
    """The shape that a GPT-2 config.json describes; raises ConfigError naming `origin`, the key and the value."""
    if config.get("model_type") != "gpt2":
        raise ConfigError(f"{origin}: model_type is {shown(config.get('model_type'))}, but it must be 'gpt2'")
    for key, wanted in _FIXED.items():
        if config.get(key, wanted) != wanted:
            raise ConfigError(f"{origin}: {key} is {shown(config[key])}, but only {wanted!r} can be computed")
    width, heads = _count(config, "n_embd", origin), _count(config, "n_head", origin)
    if width % heads:
        raise ConfigError(f"{origin}: n_embd is {width}, which is not a multiple of n_head, {heads}")
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
        tied_embedding=bool(config.get("tie_word_embeddings", True)),
        norm_epsilon=float(config.get("layer_norm_epsilon", 1e-5)),
    )


def read_shape(folder: Path) -> ModelShape:
    """The shape of the checkpoint in `folder`; raises ConfigError naming config.json."""
    path = folder / CONFIG
    return shape_from_config(_read_json(path), name=folder.name, origin=str(path))


def check_checkpoint(folder: Path) -> None:
    """Raise a ConfigError naming the first thing a checkpoint folder lacks: itself, its config or its weights."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder; model.path must be a Hugging Face checkpoint's")
    if not (folder / CONFIG).is_file():
        raise ConfigError(f"{folder / CONFIG}: there is no such file; a checkpoint folder must hold {CONFIG}")
    if (folder / WEIGHTS).is_file():
        return
    index = folder / SHARD_INDEX
    if not index.is_file():
        raise ConfigError(
            f"{folder / WEIGHTS}: there is no such file, and no {SHARD_INDEX} either; "
            "a checkpoint's weights must be in the safetensors format"
        )
    weight_map = require_mapping(_read_json(index).get("weight_map"), str(index), "weight_map")
    for shard in sorted({str(shard) for shard in weight_map.values()}):
        if not (folder / shard).is_file():
            raise ConfigError(f"{folder / shard}: there is no such file, but {SHARD_INDEX} names it")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return require_mapping(json.loads(read_text(path)), str(path), "the file")
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}, line {error.lineno}: this is not JSON: {error.msg}") from error


def _count(config: Mapping[str, Any], key: str, origin: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{origin}: {key} is {shown(value)}, but it must be a whole number of at least 1")
    return value
