"""The dimensions of a decoder-only Transformer, without its weights.

Everything that counts bytes or operations starts from a `ModelShape`. It knows nothing of torch, files
or devices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

FLOAT32_BYTES = 4
LARGEST_DIMENSION = 2**24
"""The most layers, heads, words, positions or width of a model; public ones have up to 10 million positions."""


@dataclass(frozen=True)
class ModelShape:
    """Dimensions of one model; see DESIGN words: D, d, r, H, F, V in the docstrings of `blocks`."""

    name: str
    layers: int
    width: int  # D, the residual stream
    heads: int  # H, query heads
    kv_heads: int  # KV groups; equal to `heads` for plain multi-head attention
    head_dim: int  # d
    ffn_width: int  # F
    vocab: int  # V
    positions: int  # longest sequence the model can take; also the learned position table's length
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
    # Shapes for simulation, in float32 like all else here, though their checkpoints have 2-byte elements.
    # Zhang et al. 2024, table 1; the config.json of TinyLlama-1.1B-Chat-v1.0 (four KV heads).
    "tinyllama-1.1b": ModelShape(
        "tinyllama-1.1b", 22, 2048, 32, 4, 64, 5632, 32000, 2048,
        gated_ffn=True, tied_embedding=False, learned_positions=False, biases=False,
    ),
    # Touvron et al. 2023, table 1 and appendix A.2.1; the config.json of Llama-2-7b-hf.
    "llama-2-7b": ModelShape(
        "llama-2-7b", 32, 4096, 32, 32, 128, 11008, 32000, 4096,
        gated_ffn=True, tied_embedding=False, learned_positions=False, biases=False,
    ),
    # Ours, for tests: small enough that a hundred devices fit on a laptop; one token per byte value.
    "tiny": ModelShape("tiny", 4, 64, 4, 4, 16, 256, 256, 512),
}


def reshaped(shape: ModelShape, layers: int | None, heads: int | None, vocab: int | None) -> ModelShape:
    """A shape with fewer or more layers, heads and words, else the same.

    Heads keep their size, and width, KV heads and FFN width their proportion to the heads; raises ValueError where
    KV heads would not come out whole.
    """
    name, changed = shape.name, shape
    if layers is not None:
        name, changed = f"{name}-{layers}-layer", replace(changed, layers=layers)
    if heads is not None:
        if heads * shape.kv_heads % shape.heads:
            raise ValueError(f"heads is {heads}, but {shape.name} has {shape.queries_per_group} heads for each KV head")
        name, changed = f"{name}-{heads}-head", replace(
            changed,
            heads=heads,
            kv_heads=heads * shape.kv_heads // shape.heads,
            width=shape.width * heads // shape.heads,
            ffn_width=shape.ffn_width * heads // shape.heads,
        )
    if vocab is not None:
        name, changed = f"{name}-{vocab}-word", replace(changed, vocab=vocab)
    return replace(changed, name=name)
