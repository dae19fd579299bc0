"""The dimensions of a decoder-only Transformer, without its weights.

All counts of bytes and operations start from a `ModelShape`. This module knows nothing of torch, files or devices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

FLOAT32_BYTES = 4
LARGEST_DIMENSION = 2**24
"""The largest number of layers, heads, words or positions, and the largest width; public models reach 10 million."""


@dataclass(frozen=True)
class ModelShape:
    """The dimensions of one model; the letters are those of the cost model."""

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
    biases: bool = True  # GPT-2: every linear layer has a bias, every norm a shift
    norm_epsilon: float = 1e-5
    weight_bytes: int = FLOAT32_BYTES  # b_w, per element
    kv_bytes: int = FLOAT32_BYTES  # b_kv
    activation_bytes: int = FLOAT32_BYTES  # b_act

    @property
    def queries_per_group(self) -> int:
        """r, the query heads that share one KV head."""
        return self.heads // self.kv_heads


PRESETS: dict[str, ModelShape] = {
    # Radford et al. 2019, table 2; the config.json of the `gpt2` and `gpt2-medium` checkpoints.
    "gpt2": ModelShape("gpt2", 12, 768, 12, 12, 64, 3072, 50257, 1024),
    "gpt2-medium": ModelShape("gpt2-medium", 24, 1024, 16, 16, 64, 4096, 50257, 1024),
    # Shapes for simulation only. They are in float32 like all presets, though their checkpoints have 2-byte elements.
    # Zhang et al. 2024, table 1; the config.json of TinyLlama-1.1B-Chat-v1.0 (four KV heads).
    "tinyllama-1.1b": ModelShape(
        "tinyllama-1.1b",
        22,
        2048,
        32,
        4,
        64,
        5632,
        32000,
        2048,
        gated_ffn=True,
        tied_embedding=False,
        learned_positions=False,
        biases=False,
    ),
    # Touvron et al. 2023, table 1 and appendix A.2.1; the config.json of Llama-2-7b-hf.
    "llama-2-7b": ModelShape(
        "llama-2-7b",
        32,
        4096,
        32,
        32,
        128,
        11008,
        32000,
        4096,
        gated_ffn=True,
        tied_embedding=False,
        learned_positions=False,
        biases=False,
    ),
    # Our own for tests, so small that a hundred devices fit on a laptop. A token is a byte.
    "tiny": ModelShape("tiny", 4, 64, 4, 4, 16, 256, 256, 512),
}


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
