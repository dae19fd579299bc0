"""The dimensions of a decoder-only Transformer, without its weights.

Everything that counts bytes or operations starts from a `ModelShape`. It knows nothing of torch, files
or devices.
"""

from __future__ import annotations

from dataclasses import dataclass

FLOAT32_BYTES = 4


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
    # Ours, for tests: small enough that a hundred devices fit on a laptop; one token per byte value.
    "tiny": ModelShape("tiny", 4, 64, 4, 4, 16, 256, 256, 512),
}
