"""Models of transformers as GGUF files, converted as llama.cpp's `convert_hf_to_gguf.py` does it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gguf import MODEL_ARCH, get_tensor_name_map
from gguf_cases import GgufCase

ARCHITECTURES = {"gpt2": "gpt2", "llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""`model_type` of a config -> `general.architecture`."""

_CONV1D = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")  # (in, out) in GPT-2


def gguf_of(model: Any) -> GgufCase:
    """The file of a model, with its weights in float32."""
    config = model.config
    architecture = ARCHITECTURES[config.model_type]
    names = get_tensor_name_map(MODEL_ARCH[architecture.upper()], config.num_hidden_layers)
    tensors: dict[str, Any] = {}
    for key, tensor in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        assert name is not None, key
        values = tensor.float().numpy()
        if architecture == "gpt2" and name.endswith(_CONV1D):
            values = np.ascontiguousarray(values.T)
        if architecture == "llama" and ".attn_q." in name:
            values = permuted(values, config.num_attention_heads)
        if architecture == "llama" and ".attn_k." in name:
            values = permuted(values, config.num_key_value_heads)
        tensors[name] = ("float32", values.shape, values.tobytes())
    metadata = {"general.architecture": architecture} | {
        f"{architecture}.{key}": value for key, value in _metadata(config, architecture).items() if value is not None
    }
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "llama3":
        factors = llama3_factors(rope, metadata["llama.rope.dimension_count"])
        tensors["rope_freqs.weight"] = ("float32", factors.shape, factors.tobytes())
    return GgufCase(metadata, tensors)


def permuted(values: np.ndarray, heads: int) -> np.ndarray:
    """The rows of queries or keys in the order that llama.cpp's RoPE wants: of each head its halves in turn."""
    shape = values.shape
    halves = values.reshape(heads, 2, shape[0] // heads // 2, *shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(shape))


def llama3_factors(rope: dict[str, Any], head_dim: int) -> np.ndarray:
    """What the converter divides each frequency by."""
    frequencies = 1.0 / rope["rope_theta"] ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    original, factor = rope["original_max_position_embeddings"], rope["factor"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    found = []
    for wavelength in 2 * math.pi / frequencies:
        if wavelength < original / high:
            found.append(1.0)
        elif wavelength > original / low:
            found.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(found, np.float32)


def _metadata(config: Any, architecture: str) -> dict[str, Any]:
    """The keys of the architecture; a value of None stands for a key that is not there."""
    if architecture == "gpt2":
        return {
            "block_count": config.n_layer, "context_length": config.n_positions, "embedding_length": config.n_embd,
            "feed_forward_length": config.n_inner or 4 * config.n_embd, "attention.head_count": config.n_head,
            "attention.layer_norm_epsilon": config.layer_norm_epsilon, "vocab_size": config.vocab_size,
        }  # fmt: skip
    rope = config.rope_parameters
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    linear = rope["rope_type"] == "linear"
    return {
        "block_count": config.num_hidden_layers, "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size, "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": head_dim, "attention.value_length": head_dim, "rope.dimension_count": head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps, "rope.freq_base": float(rope["rope_theta"]),
        "vocab_size": config.vocab_size, "rope.scaling.type": "linear" if linear else None,
        "rope.scaling.factor": rope["factor"] if linear else None,
        "attention.sliding_window": config.sliding_window if config.model_type == "mistral" else None,
    }  # fmt: skip
