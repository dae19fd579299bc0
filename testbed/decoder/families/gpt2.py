"""GPT-2 (Radford et al. 2019): its config.json, and the names of its tensors as `save_pretrained` writes them.

Cerebras-GPT and DistilGPT-2 are GPT-2s too. A setting that would change the arithmetic is refused, never ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from testbed.decoder.config_json import (
    read_choice,
    read_count,
    read_epsilon,
    read_flag,
    refuse_other_arithmetic,
    refuse_packed_weights,
)
from testbed.decoder.pieces import Part, Piece, select
from testbed.errors import ConfigError
from testbed.shape import ModelShape

TITLE = "GPT-2"

_ACTIVATIONS = {"gelu_new": "gelu_new", "gelu_pytorch_tanh": "gelu_new", "gelu": "gelu"}
_ALIASES = {  # transformers accepts both names
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_layer": "num_hidden_layers",
    "n_positions": "max_position_embeddings",
}
_READ = (
    *_ALIASES, *_ALIASES.values(), "n_inner", "vocab_size", "activation_function", "layer_norm_epsilon",
    "tie_word_embeddings", "scale_attn_by_inverse_layer_idx",
)  # fmt: skip

TOKENS = "wte.weight"
LM_HEAD = "lm_head.weight"
_POSITIONS = "wpe.weight"
_FINAL_NORM = "ln_f"
_ATTENTION_NORM, _QKV, _PROJ = "ln_1", "attn.c_attn", "attn.c_proj"  # the modules of a layer
_FFN_NORM, _FFN_IN, _FFN_OUT = "ln_2", "mlp.c_fc", "mlp.c_proj"
_PREFIX = "transformer."  # of the tensors of a GPT2LMHeadModel; a bare GPT2Model has none
_MASK = re.compile(r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias")  # older versions stored the causal mask


def shape_from_config(config: Mapping[str, Any], name: str, origin: str) -> ModelShape:
    """The shape that a config.json describes; raises ConfigError naming `origin`, the key and the value."""
    refuse_other_arithmetic(config, {"scale_attn_weights": True}, _READ, origin)
    refuse_packed_weights(config, origin)
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
        tied_embedding=read_flag(config, "tie_word_embeddings", True, origin),
        norm_epsilon=read_epsilon(config, "layer_norm_epsilon", 1e-5, origin),
        activation=read_choice(config, "activation_function", "gelu_new", _ACTIVATIONS, origin),
        attention_scale_by_layer=read_flag(config, "scale_attn_by_inverse_layer_idx", False, origin),
    )


def _count(config: Mapping[str, Any], key: str, origin: str) -> int:
    return read_count(config, key, origin, _ALIASES.get(key))


def prefix_of(names: Iterable[str]) -> str:
    """The prefix that all these names have, except for the LM head."""
    return _PREFIX if any(name.startswith(_PREFIX) for name in names) else ""


def is_weight(name: str) -> bool:
    """Whether this tensor is a weight and not a stored causal mask."""
    return _MASK.fullmatch(name) is None


def tensors(shape: ModelShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The name, without a prefix, and the dimensions of each tensor except for the LM head."""
    D, F = shape.width, shape.ffn_width
    yield TOKENS, (shape.vocab, D)
    yield _POSITIONS, (shape.positions, D)
    yield from _module(_FINAL_NORM, D)
    for layer in range(shape.layers):
        yield from _module(_in_layer(layer, _ATTENTION_NORM), D)
        yield from _module(_in_layer(layer, _QKV), D, 3 * D)
        yield from _module(_in_layer(layer, _PROJ), D, D)
        yield from _module(_in_layer(layer, _FFN_NORM), D)
        yield from _module(_in_layer(layer, _FFN_IN), D, F)
        yield from _module(_in_layer(layer, _FFN_OUT), F, D)


def locate(shape: ModelShape, piece: Piece, layer: int) -> list[Part]:
    """The parts of stored tensors, without a prefix, whose rows, one part after the other, are those of a piece."""
    return select(piece, _stored(shape, piece, layer))


def _stored(shape: ModelShape, piece: Piece, layer: int) -> list[Part]:
    """The parts that make up the tensor that a piece is of. The matrices of a layer are (in, out) in the file."""
    kind, name = piece.kind, piece.name
    rows, columns = slice(0, piece.dims[0]), slice(0, piece.dims[1] if len(piece.dims) > 1 else 1)
    part = "weight" if name.endswith("weight") else "bias"
    if kind == "embed":
        tables = {"tokens": TOKENS, "positions": _POSITIONS, "lm_head": LM_HEAD}
        return [Part(tables.get(name, f"{_FINAL_NORM}.{part}"), rows, columns)]
    if name.startswith("norm"):
        module = _ATTENTION_NORM if kind == "head" else _FFN_NORM
        return [Part(f"{_in_layer(layer, module)}.{part}", rows, columns)]
    matrix = len(piece.dims) > 1
    if kind == "head":  # of c_attn's rows, which are q | k | v, each H heads of d
        starts = [third * shape.width + piece.index * shape.head_dim for third in range(3)]
        stored = f"{_in_layer(layer, _QKV)}.{part}"
        return [Part(stored, slice(start, start + shape.head_dim), columns, matrix) for start in starts]
    module = _PROJ if kind == "proj" else _FFN_IN if name.startswith("in") else _FFN_OUT
    return [Part(f"{_in_layer(layer, module)}.{part}", rows, columns, matrix)]


def _in_layer(layer: int, module: str) -> str:
    return f"h.{layer}.{module}"


def _module(name: str, *dims: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Weight and bias of a layer norm (D,), or of a linear layer (in, out)."""
    yield f"{name}.weight", dims
    yield f"{name}.bias", dims[-1:]
