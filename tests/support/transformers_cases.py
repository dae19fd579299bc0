"""Small random models of every family, made by transformers: what it computes is what the decoder must compute."""

from __future__ import annotations

from typing import Any

import torch
import transformers

torch.set_grad_enabled(False)
torch.set_num_threads(1)  # more would wait for one another, and tests run on all cores

_SMALL = {
    "vocab_size": 99, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.2, "bos_token_id": None,
    "eos_token_id": None,
}  # fmt: skip
_SMALL_GPT2 = {
    "vocab_size": 99, "n_positions": 256, "n_embd": 48, "n_layer": 3, "n_head": 4, "initializer_range": 0.2,
    "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
_LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
_LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.5}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", {}),
    "gpt2-gelu": ("GPT2", {"activation_function": "gelu"}),
    "gpt2-tanh-untied": ("GPT2", {"activation_function": "gelu_pytorch_tanh", "tie_word_embeddings": False}),
    "gpt2-scaled-by-layer": ("GPT2", {"scale_attn_by_inverse_layer_idx": True, "n_inner": 100}),
    "llama-1": ("Llama", {"num_key_value_heads": 4}),
    "llama-2-tied": ("Llama", {"tie_word_embeddings": True}),
    "llama-5": ("Llama", {"num_attention_heads": 10, "hidden_size": 80}),
    "llama-wide-heads": ("Llama", {"head_dim": 40}),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-attention-bias": ("Llama", {"attention_bias": True}),
    "llama-rope-llama3": ("Llama", {"rope_parameters": _LLAMA3}),
    "llama-rope-linear": ("Llama", {"rope_parameters": _LINEAR}),
    "mistral-window": ("Mistral", {"sliding_window": 9}),
    "mistral-full": ("Mistral", {"sliding_window": None}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2-window": ("Qwen2", {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {"head_dim": 24}),
    "qwen3-bias": ("Qwen3", {"head_dim": 16, "attention_bias": True, "tie_word_embeddings": True}),
}
"""Name of a case -> the family in transformers' words, and what its config has beside the common keys."""


def small_model(name: str, seed: int = 3) -> Any:
    """The model of a case, with random numbers in every norm and bias, and weights so large that tokens differ."""
    family, changes = CASES[name]
    torch.manual_seed(seed)
    config = getattr(transformers, f"{family}Config")(**(_SMALL_GPT2 if family == "GPT2" else _SMALL) | changes)
    config._attn_implementation = "eager"
    head = "LMHeadModel" if family == "GPT2" else "ForCausalLM"
    model = getattr(transformers, f"{family}{head}")(config).eval()
    for key, tensor in model.named_parameters():  # transformers starts with zero biases and unit norms
        if key.endswith("wpe.weight"):  # or a tied embedding says again what it was given
            tensor.copy_(torch.randn_like(tensor) * 0.8)
        elif tensor.dim() == 1:
            norm = key.endswith("weight")
            tensor.copy_(torch.randn_like(tensor) * 0.3 + norm)
    return model


def greedy_tokens(model: Any, prompt: list[int], length: int) -> list[int]:
    """The prompt and what the model says after it, `length` tokens in all."""
    made = model.generate(torch.tensor([prompt]), max_length=length, min_length=length, do_sample=False)
    return list(map(int, made[0]))
