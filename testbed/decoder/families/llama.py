"""Llama (Touvron et al. 2023) and its relatives Mistral, Qwen2 and Qwen3: config.json, and the names of the tensors.

All have RMS norms, rotary positions, grouped queries and a gated FFN. Qwen2 adds biases to queries, keys and values,
Qwen3 norms of queries and keys, Mistral a sliding window. A setting that would change the arithmetic is refused, never
ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from testbed.decoder.config_json import (
    read_count,
    read_epsilon,
    read_flag,
    read_number,
    refuse_other_arithmetic,
    refuse_packed_weights,
)
from testbed.decoder.pieces import Part, Piece, select
from testbed.errors import ConfigError
from testbed.shape import ModelShape, Rope
from testbed.strict_yaml import shown

TITLE = "Llama"

_READ = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings",
    "rope_theta", "rope_scaling", "rope_parameters", "layer_types",
)  # fmt: skip
# By model_type: the keys that are read too, and those that have one value.
_ALSO_READ = {
    "llama": ("attention_bias", "mlp_bias"),
    "mistral": ("sliding_window",),
    "qwen2": ("use_sliding_window", "sliding_window", "max_window_layers"),
    "qwen3": ("use_sliding_window", "sliding_window", "max_window_layers", "attention_bias"),
}
_FIXED: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"attention_bias": False, "mlp_bias": False},
    "qwen2": {"attention_bias": True, "mlp_bias": False},
    "qwen3": {"mlp_bias": False},
}
_WINDOW, _WINDOW_FROM, _HEAD_DIM, _THETA = 4096, 28, 128, 10_000.0  # defaults of transformers' configurations

TOKENS = "embed_tokens.weight"
LM_HEAD = "lm_head.weight"
_FINAL_NORM = "norm.weight"
_PREFIX = "model."  # of the tensors of a LlamaForCausalLM; a bare LlamaModel has none
_CONSTANT = "rotary_emb.inv_freq"  # older versions stored it


def shape_from_config(config: Mapping[str, Any], name: str, origin: str) -> ModelShape:
    """The shape that a config.json describes; raises ConfigError naming `origin`, the key and the value."""
    kind = str(config.get("model_type"))
    refuse_other_arithmetic(config, {"hidden_act": "silu"} | _FIXED[kind], (*_READ, *_ALSO_READ[kind]), origin)
    refuse_packed_weights(config, origin)
    width, heads = read_count(config, "hidden_size", origin), read_count(config, "num_attention_heads", origin)
    groups = read_count(
        config, "num_key_value_heads", origin, default=heads if _groups_may_lack(config, kind) else None
    )
    if heads % groups:
        raise ConfigError(
            f"{origin}: num_attention_heads is {heads}, which is not a multiple of num_key_value_heads, {groups}"
        )
    head_dim = _head_dim(config, kind, width, heads, origin)
    layers = read_count(config, "num_hidden_layers", origin)
    window, window_from = _window(config, kind, layers, origin)
    biases = read_flag(config, "attention_bias", False, origin) if kind in ("llama", "qwen3") else False
    return ModelShape(
        name=name,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=groups,
        head_dim=head_dim,
        ffn_width=read_count(config, "intermediate_size", origin),
        vocab=read_count(config, "vocab_size", origin),
        positions=read_count(config, "max_position_embeddings", origin),
        gated_ffn=True,
        tied_embedding=read_flag(config, "tie_word_embeddings", False, origin),
        learned_positions=False,
        qkv_bias=biases or kind == "qwen2",
        proj_bias=biases,
        ffn_bias=kind == "llama" and read_flag(config, "mlp_bias", False, origin),
        norm_bias=False,
        norm="rms",
        norm_epsilon=read_epsilon(config, "rms_norm_eps", 1e-6, origin),
        activation="silu",
        rope=_rope(config, origin),
        qk_norm=kind == "qwen3",
        window=window,
        window_from=window_from,
    )


def _groups_may_lack(config: Mapping[str, Any], kind: str) -> bool:
    """Whether a missing number of KV heads means as many as heads; Mistral and Qwen have other defaults."""
    return kind == "llama" or "num_key_value_heads" in config


def _head_dim(config: Mapping[str, Any], kind: str, width: int, heads: int, origin: str) -> int:
    if config.get("head_dim") is not None or kind == "qwen3":
        head_dim = read_count(config, "head_dim", origin, default=_HEAD_DIM)
    elif width % heads:
        raise ConfigError(f"{origin}: hidden_size is {width}, which is not a multiple of num_attention_heads, {heads}")
    else:
        head_dim = width // heads
    if head_dim % 2:
        raise ConfigError(f"{origin}: heads are of {head_dim} numbers, but rotary positions turn pairs of them")
    return head_dim


def _rope(config: Mapping[str, Any], origin: str) -> Rope:
    """The rotary positions, from `rope_theta` and `rope_scaling` or, since transformers 5, from `rope_parameters`."""
    old, new = config.get("rope_scaling"), config.get("rope_parameters")
    if old is not None and new is not None and old != new:
        raise ConfigError(f"{origin}: there are both rope_scaling and rope_parameters, and they differ")
    key, given = ("rope_scaling", old) if new is None else ("rope_parameters", new)
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise ConfigError(f"{origin}: {key} is {shown(given)}, but it must be a mapping")
    where = f"{origin}: {key}"
    kind = given.get("rope_type", given.get("type", "default"))
    wanted = {"default": (), "linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor",
              "original_max_position_embeddings")}  # fmt: skip
    if not isinstance(kind, str) or kind not in wanted:
        raise ConfigError(f"{where}: rope_type is {shown(kind)}, but it must be {', '.join(wanted)}")
    refuse_other_arithmetic(given, {}, ("rope_type", "type", "rope_theta", *wanted[kind]), where)
    theta = read_number(given if "rope_theta" in given else config, "rope_theta", origin, _THETA)
    numbers = {name: read_number(given, name, where) for name in wanted[kind]}
    if kind == "default":
        return Rope(theta)
    if kind == "linear":
        return Rope(theta, "linear", numbers["factor"])
    low, high = numbers["low_freq_factor"], numbers["high_freq_factor"]
    if low >= high:
        raise ConfigError(f"{where}: low_freq_factor is {low:g}, which is not below high_freq_factor, {high:g}")
    original = read_count(given, "original_max_position_embeddings", where)
    return Rope(theta, "llama3", numbers["factor"], low, high, original)


def _window(config: Mapping[str, Any], kind: str, layers: int, origin: str) -> tuple[int | None, int]:
    """How many positions a token sees (None: all before it), and from which layer on."""
    window, first = None, 0
    if kind == "mistral" and config.get("sliding_window", _WINDOW) is not None:
        window = read_count(config, "sliding_window", origin, default=_WINDOW)
    if kind.startswith("qwen") and read_flag(config, "use_sliding_window", False, origin):
        if config.get("sliding_window", _WINDOW) is not None:
            window = read_count(config, "sliding_window", origin, default=_WINDOW)
        first = config.get("max_window_layers", _WINDOW_FROM)
        if not isinstance(first, int) or isinstance(first, bool) or first < 0:
            raise ConfigError(f"{origin}: max_window_layers is {shown(first)}, but it must be a whole number from 0 on")
    types = config.get("layer_types")
    if types is not None and kind != "mistral":  # it comes before max_window_layers
        first = types.count("full_attention") if isinstance(types, list) else 0
    if types is not None and (
        not isinstance(types, list)
        or types != ["full_attention" if window is None or at < first else "sliding_attention" for at in range(layers)]
    ):
        raise ConfigError(
            f"{origin}: layer_types is {shown(types)}, but only layers with full_attention before those with "
            f"sliding_attention can be computed, one for each of {layers} layers, and only sliding ones with a window"
        )
    return (None, 0) if window is None or first >= layers else (window, first)


def prefix_of(names: Iterable[str]) -> str:
    """The prefix that all these names have, except for the LM head."""
    return _PREFIX if any(name.startswith(_PREFIX) for name in names) else ""


def is_weight(name: str) -> bool:
    """Whether this tensor is a weight and not a stored constant."""
    return not name.endswith(_CONSTANT)


def tensors(shape: ModelShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The name, without a prefix, and the dimensions of each tensor except for the LM head."""
    D, F, d = shape.width, shape.ffn_width, shape.head_dim
    attention, values = shape.heads * d, shape.kv_heads * d
    yield TOKENS, (shape.vocab, D)
    yield _FINAL_NORM, (D,)
    for layer in range(shape.layers):
        yield f"layers.{layer}.input_layernorm.weight", (D,)
        for module, out in (("q_proj", attention), ("k_proj", values), ("v_proj", values)):
            yield from _module(f"layers.{layer}.self_attn.{module}", out, D, shape.qkv_bias)
        yield from _module(f"layers.{layer}.self_attn.o_proj", D, attention, shape.proj_bias)
        if shape.qk_norm:
            yield f"layers.{layer}.self_attn.q_norm.weight", (d,)
            yield f"layers.{layer}.self_attn.k_norm.weight", (d,)
        yield f"layers.{layer}.post_attention_layernorm.weight", (D,)
        yield from _module(f"layers.{layer}.mlp.gate_proj", F, D, shape.ffn_bias)
        yield from _module(f"layers.{layer}.mlp.up_proj", F, D, shape.ffn_bias)
        yield from _module(f"layers.{layer}.mlp.down_proj", D, F, shape.ffn_bias)


def _module(name: str, out: int, width: int, bias: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Weight and bias of a linear layer (out, in)."""
    yield f"{name}.weight", (out, width)
    if bias:
        yield f"{name}.bias", (out,)


def locate(shape: ModelShape, piece: Piece, layer: int) -> list[Part]:
    """The parts of stored tensors, without a prefix, whose rows, one part after the other, are those of a piece."""
    columns = slice(0, piece.dims[1] if len(piece.dims) > 1 else 1)
    return select(piece, [Part(name, rows, columns) for name, rows in _stored(shape, piece, layer)])


def _stored(shape: ModelShape, piece: Piece, layer: int) -> list[tuple[str, slice]]:
    """The stored tensors, and which of their rows, that make up the tensor that a piece is of."""
    kind, name, every = piece.kind, piece.name, slice(0, piece.dims[0])
    attention, mlp = f"layers.{layer}.self_attn", f"layers.{layer}.mlp"
    part = "bias" if name.endswith("bias") else "weight"
    if kind == "embed":
        return [({"tokens": TOKENS, "lm_head": LM_HEAD}.get(name, _FINAL_NORM), every)]
    if name == "norm_weight":
        return [(f"layers.{layer}.{'input' if kind == 'head' else 'post_attention'}_layernorm.weight", every)]
    if name in ("q_norm", "k_norm"):
        return [(f"{attention}.{name}.weight", every)]
    if kind == "head":
        queries, d = shape.queries_per_group * shape.head_dim, shape.head_dim
        sizes = {"q_proj": queries, "k_proj": d, "v_proj": d}
        return [
            (f"{attention}.{module}.{part}", slice(piece.index * size, (piece.index + 1) * size))
            for module, size in sizes.items()
        ]
    if kind == "proj":
        return [(f"{attention}.o_proj.{part}", every)]
    if name.startswith("in"):
        half = slice(0, shape.ffn_width)
        return [(f"{mlp}.gate_proj.{part}", half), (f"{mlp}.up_proj.{part}", half)]
    return [(f"{mlp}.down_proj.{part}", every)]
