"""The dimensions and the arithmetic of a decoder-only Transformer, and the formats of its numbers, without its weights.

All counts of bytes and operations start from a `ModelShape`. This module knows nothing of files or devices.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

from testbed.formats import FORMATS, PLAIN

LARGEST_DIMENSION = 2**24
"""The largest number of layers, heads, words or positions, and the largest width; public models reach 10 million."""

_ROLES = {
    ("head", "qkv_weight"): "qkv",
    ("head", "proj_weight"): "proj",
    ("proj", "weight"): "proj",
    ("ffn", "in_weight"): "ffn_in",
    ("ffn", "out_weight"): "ffn_out",
    ("embed", "tokens"): "tokens",
    ("embed", "positions"): "positions",
    ("embed", "lm_head"): "lm_head",
    ("vocab", "rows"): "lm_head",
}


def role_of(kind: str, name: str) -> str | None:
    """The role of a block's matrix, one of the fields of `WeightFormats`; None for norms and biases."""
    return _ROLES.get((kind, name))


@dataclass(frozen=True)
class WeightFormats:
    """The format of each role's matrices, the same in all layers. Norms and biases are always float32."""

    qkv: str = "float32"
    proj: str = "float32"
    ffn_in: str = "float32"
    ffn_out: str = "float32"
    tokens: str = "float32"  # the embedding table; a tied LM head has its format
    positions: str = "float32"
    lm_head: str = "float32"

    @classmethod
    def all_in(cls, name: str) -> WeightFormats:
        """All roles in one format. A learned position table has no quantised format and then stays in float32."""
        positions = name if name in PLAIN else "float32"
        return cls(**{role.name: name for role in fields(cls)} | {"positions": positions})

    def for_tensor(self, kind: str, name: str) -> str:
        """The format of a block's tensor; float32 for norms and biases."""
        role = role_of(kind, name)
        return "float32" if role is None else str(getattr(self, role))


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding: pair i of a head of size d turns by position · theta^(-2i/d), divided by its factor.

    `linear` divides all frequencies by `factor`. `llama3` divides by `factor` those whose wavelength is over
    `original / low` positions, leaves those under `original / high`, and goes from one to the other in between.
    `factors` divides each frequency by a number of its own, as the `rope_freqs.weight` of a GGUF file gives them.
    """

    theta: float
    kind: Literal["default", "linear", "llama3", "factors"] = "default"
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    original: int = 8192  # positions of the model before its context was extended
    factors: tuple[float, ...] = ()  # d/2


@dataclass(frozen=True)
class ModelShape:
    """The dimensions and arithmetic of one model; the letters are those of the cost model."""

    name: str
    layers: int
    width: int  # D, the residual stream
    heads: int  # H, query heads
    kv_heads: int  # KV groups; equal to `heads` for plain multi-head attention
    head_dim: int  # d
    ffn_width: int  # F
    vocab: int  # V
    positions: int  # the longest sequence of the model, and the length of a learned position table
    gated_ffn: bool = False  # three FFN matrices instead of two
    tied_embedding: bool = True  # the LM head is the embedding table
    learned_positions: bool = True  # GPT-2: a table of positions x width
    qkv_bias: bool = True
    proj_bias: bool = True
    ffn_bias: bool = True  # of all FFN matrices
    norm_bias: bool = True
    norm: Literal["layer", "rms"] = "layer"
    norm_epsilon: float = 1e-5
    activation: Literal["gelu_new", "gelu", "silu"] = "gelu_new"
    rope: Rope | None = None
    qk_norm: bool = False  # Qwen3: an RMS norm for each query and key, before they are turned
    window: int | None = None  # the most positions that a token sees, its own included
    window_from: int = 0  # the first layer with the window
    attention_scale_by_layer: bool = False  # GPT-2's option: scores of layer l are divided by l + 1
    weights: WeightFormats = WeightFormats()
    kv_format: str = "float32"
    wire_format: str = "float32"  # of what travels, and what values are rounded to where they are produced

    def __hash__(self) -> int:
        return hash((self.name, self.layers, self.width, self.heads))  # few fields, because caches ask often

    @property
    def queries_per_group(self) -> int:
        """r, the query heads that share one KV head."""
        return self.heads // self.kv_heads

    @property
    def kv_bytes(self) -> int:
        """b_kv, per element of a KV cache."""
        return FORMATS[self.kv_format].block_bytes

    @property
    def activation_bytes(self) -> int:
        """b_act, per element of a message."""
        return FORMATS[self.wire_format].block_bytes

    def format_of(self, kind: str, name: str) -> str:
        """The format of a block's tensor. The rows of a tied LM head have the format of the embedding table."""
        if kind == "vocab" and self.tied_embedding:
            return self.weights.tokens
        return self.weights.for_tensor(kind, name)


def reshaped(shape: ModelShape, layers: int | None, heads: int | None, vocab: int | None) -> ModelShape:
    """The shape with another number of layers, heads or words; None keeps the number.

    The size of a head stays the same. Width, KV heads and FFN width change in proportion to the heads. Raises
    ValueError if the number of KV heads would not be whole.
    """
    name, changed = shape.name, shape
    if layers is not None:
        name, changed = f"{name}-{layers}-layer", replace(changed, layers=layers)
    if heads is not None:
        if heads * shape.kv_heads % shape.heads:
            raise ValueError(f"heads is {heads}, but {shape.name} has {shape.queries_per_group} heads for each KV head")
        name, changed = (
            f"{name}-{heads}-head",
            replace(
                changed,
                heads=heads,
                kv_heads=heads * shape.kv_heads // shape.heads,
                width=shape.width * heads // shape.heads,
                ffn_width=shape.ffn_width * heads // shape.heads,
            ),
        )
    if vocab is not None:
        name, changed = f"{name}-{vocab}-word", replace(changed, vocab=vocab)
    return replace(changed, name=name)
