"""What a GGUF file says of its model, in the words of a Hugging Face checkpoint: its config.json and its tensors.

The families read the result as they read a folder's. A metadata key of the architecture that is not known here is
refused, because it may change the arithmetic. Names and keys are those of llama.cpp's `llama-arch.cpp`, and what was
done to tensors on the way is in its `convert_hf_to_gguf.py`.
"""

from __future__ import annotations

import ctypes
import math
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from testbed.decoder.gguf_header import ArrayPlace, GgufHeader, Scalar
from testbed.decoder.stored import STORED_FORMATS, StoredTensor, file_name
from testbed.errors import ConfigError
from testbed.files import open_file
from testbed.strict_yaml import shown

ROPE_FACTORS = "rope_freqs.weight"  # each rotary frequency is divided by one of these
QUANTIZATION_VERSION = 2  # since May 2023; the blocks of files before that have other layouts

_LAYER = re.compile(r"blk\.(\d+)\.(.+)\.(weight|bias)")
_OUTSIDE = re.compile(r"(.+)\.(weight|bias)")

_LLAMA_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GPT2_LAYER = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
_LLAMA_OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_GPT2_OUTSIDE = {
    "token_embd": "transformer.wte", "position_embd": "transformer.wpe", "output_norm": "transformer.ln_f",
    "output": "lm_head",
}  # fmt: skip
# Keys of every architecture, and the values with which they change nothing.
_NEUTRAL: Mapping[str, tuple[Scalar, ...]] = {
    "use_parallel_residual": (False,),
    "tensor_data_layout": ("", "Meta AI original pth"),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "pooling_type": (0,),
    "logit_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "embedding_scale": (0.0, 1.0),
    "attn_logit_softcapping": (0.0,),
    "final_logit_softcapping": (0.0,),
    "attention.causal": (True,),
    "attention.max_alibi_bias": (0.0,),
    "attention.clamp_kqv": (0.0,),
    "attention.scale": (0.0,),
    "rope.scaling.attn_factor": (0.0, 1.0),
}


@dataclass(frozen=True)
class _Architecture:
    """How one `general.architecture` is said in the words of a Hugging Face checkpoint."""

    layers: str  # the prefix of a layer's tensors
    layer: Mapping[str, str]  # a module of a layer -> its name
    outside: Mapping[str, str]  # the other modules
    permuted: tuple[str, ...]  # modules whose rows llama.cpp reorders for its own RoPE, which turns neighbours
    transposed: tuple[str, ...]  # modules that the Hugging Face checkpoint has as (in, out)
    config: Callable[[_Metadata], dict[str, Any]]


def read_config(header: GgufHeader) -> dict[str, Any]:
    """The config.json of the file's model; raises ConfigError naming the file, the metadata key and its value."""
    metadata = _Metadata(header)
    config = _ARCHITECTURES[metadata.architecture].config(metadata)
    metadata.refuse_the_rest()
    return config


def tensors_of_header(header: GgufHeader) -> dict[str, StoredTensor]:
    """The file's tensors under the names of a Hugging Face checkpoint, except for the factors of RoPE."""
    metadata = _Metadata(header)
    names = _ARCHITECTURES[metadata.architecture]
    found: dict[str, StoredTensor] = {}
    for own, place in header.tensors.items():
        if own == ROPE_FACTORS:
            continue
        module, name = _translated(own, names)
        heads = 0
        if module in names.permuted:
            heads = metadata.heads if module == "attn_q" else metadata.kv_heads
            if place.dims[0] % (2 * heads):
                raise metadata.wrong(f"tensor {shown(own)} has {place.dims[0]} rows for {heads} heads")
        turned = module in names.transposed and len(place.dims) == 2
        dims = place.dims[::-1] if turned else place.dims
        if name in found:
            raise metadata.wrong(f"has {shown(own)} and {shown(found[name].own_name)}, which are one tensor")
        found[name] = StoredTensor(
            header.file, place.format, dims, place.offset, place.nbytes, own, heads, transposed=turned
        )
    return found


def own_name(architecture: str, name: str) -> str:
    """The name that a tensor of a Hugging Face checkpoint has in a GGUF file."""
    names = _ARCHITECTURES[architecture]
    stem, _, kind = name.rpartition(".")
    back = {there: module for module, there in names.outside.items()}
    if stem in back:
        return f"{back[stem]}.{kind}"
    layer, _, module = stem.removeprefix(names.layers).partition(".")
    inside = {there: module for module, there in names.layer.items()}
    return f"blk.{layer}.{inside.get(module, module)}.{kind}"


def rope_factors(header: GgufHeader, pairs: int) -> tuple[float, ...]:
    """The factors by which the file divides the frequencies of RoPE; () if it has none, or ends before them."""
    place = header.tensors.get(ROPE_FACTORS)
    if place is None or place.offset + place.nbytes > header.size:
        return ()
    where = f"{file_name(header.file)}: tensor {ROPE_FACTORS!r}"
    if place.format != "float32" or place.dims != (pairs,):
        raise ConfigError(
            f"{where} is of type {place.format} and shape {list(place.dims)}, but it must be of type float32 and shape "
            f"[{pairs}], for heads of {2 * pairs}"
        )
    with open_file(header.file) as file:
        file.seek(place.offset)
        factors: tuple[float, ...] = struct.unpack(f"<{pairs}f", file.read(place.nbytes))
    if not all(0 < factor < math.inf for factor in factors):
        raise ConfigError(f"{where} has values that are not positive numbers")
    return factors


def _translated(own: str, names: _Architecture) -> tuple[str, str]:
    """The module of a tensor, and its name in a Hugging Face checkpoint; a tensor that is not known keeps its name."""
    inside = _LAYER.fullmatch(own)
    if inside and inside[2] in names.layer:
        return inside[2], f"{names.layers}{int(inside[1])}.{names.layer[inside[2]]}.{inside[3]}"
    outside = _OUTSIDE.fullmatch(own)
    if outside and outside[1] in names.outside:
        return outside[1], f"{names.outside[outside[1]]}.{outside[2]}"
    return "", own


class _Metadata:
    """Reads the keys of the architecture, each of which must be read by somebody."""

    def __init__(self, header: GgufHeader) -> None:
        self.header = header
        values = header.metadata
        kind = values.get("general.type", "model")
        if kind != "model":
            raise self.wrong(f"general.type is {shown(kind)}, but it must be 'model'")
        self.architecture = values.get("general.architecture")
        if self.architecture not in _ARCHITECTURES:
            known = ", ".join(map(repr, _ARCHITECTURES))
            raise self.wrong(f"general.architecture is {_told(self.architecture)}, but it must be one of {known}")
        parts = values.get("split.count", 0)
        if parts not in (0, 1):
            raise self.wrong(f"this is one of {shown(parts)} parts: join them by `llama-gguf-split --merge`")
        version = values.get("general.quantization_version", QUANTIZATION_VERSION)
        packed = any(one.format in STORED_FORMATS and STORED_FORMATS[one.format].block > 1
                     for one in header.tensors.values())  # fmt: skip
        if packed and version != QUANTIZATION_VERSION:
            raise self.wrong(
                f"general.quantization_version is {shown(version)}, but it must be {QUANTIZATION_VERSION}: older "
                "blocks have other layouts"
            )
        self._prefix = f"{self.architecture}."
        self._read: set[str] = set()

    def wrong(self, reason: str) -> ConfigError:
        return ConfigError(f"{file_name(self.header.file)}: {reason}")

    def has(self, key: str) -> bool:
        return self._prefix + key in self.header.metadata

    def count(self, key: str, default: int | None = None) -> int:
        value = self._get(key, default)
        if type(value) is not int or value < 1:
            raise self.wrong(f"{self._prefix}{key} is {_told(value)}, but it must be a whole number of at least 1")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number; one of 32 bits is read as the shortest decimal that it stands for, as config.json has it."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.wrong(f"{self._prefix}{key} is {_told(value)}, but it must be a number")
        shorter = (float(f"{value:.{digits}g}") for digits in range(1, 9))
        return next((one for one in shorter if _as_float32(one) == value), float(value))

    def text(self, key: str, default: str) -> str:
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self.wrong(f"{self._prefix}{key} is {_told(value)}, but it must be text")
        return value

    def skip(self, *keys: str) -> None:
        """Keys that say nothing that changes the arithmetic."""
        self._read.update(keys)

    def refuse_the_rest(self) -> None:
        for full, value in self.header.metadata.items():
            key = full.removeprefix(self._prefix)
            unread = full.startswith("adapter.") or (full.startswith(self._prefix) and key not in self._read)
            if unread and value not in _NEUTRAL.get(key, ()):
                raise self.wrong(f"{full} is {_told(value)}, which may change the arithmetic and is not known")

    @property
    def heads(self) -> int:
        return self.count("attention.head_count")

    @property
    def kv_heads(self) -> int:
        return self.count("attention.head_count_kv", self.heads)

    @property
    def vocab(self) -> int:
        words = self.header.metadata.get("tokenizer.ggml.tokens")
        if not self.has("vocab_size") and isinstance(words, ArrayPlace):
            return words.count
        return self.count("vocab_size")

    def has_tensor(self, name: str) -> bool:
        return name in self.header.tensors

    def _get(self, key: str, default: Scalar | None) -> Scalar | ArrayPlace | None:
        self._read.add(key)
        return self.header.metadata.get(self._prefix + key, default)


def _told(value: Scalar | ArrayPlace | None) -> str:
    """A value of the metadata as an error shows it."""
    if value is None:
        return "not there"
    return f"an array of {value.count} values" if isinstance(value, ArrayPlace) else shown(value)


def _as_float32(value: float) -> float:
    return float(ctypes.c_float(value).value)


def _common(metadata: _Metadata) -> dict[str, Any]:
    """The dimensions that all architectures have, under the names of a Llama."""
    return {
        "model_type": metadata.architecture,
        "num_hidden_layers": metadata.count("block_count"),
        "hidden_size": metadata.count("embedding_length"),
        "num_attention_heads": metadata.heads,
        "vocab_size": metadata.vocab,
        "max_position_embeddings": metadata.count("context_length"),
        "tie_word_embeddings": not metadata.has_tensor("output.weight"),
    }


def _llama(metadata: _Metadata) -> dict[str, Any]:
    config = _common(metadata)
    head_dim = metadata.count("attention.key_length", max(1, config["hidden_size"] // metadata.heads))
    for key in ("attention.value_length", "rope.dimension_count"):
        if metadata.count(key, head_dim) != head_dim:
            raise metadata.wrong(f"{metadata.architecture}.{key} is {metadata.count(key)}, but it must be {head_dim}")
    config |= {
        "num_key_value_heads": metadata.kv_heads,
        "head_dim": head_dim,
        "intermediate_size": metadata.count("feed_forward_length"),
        "rms_norm_eps": metadata.number("attention.layer_norm_rms_epsilon"),
        "hidden_act": "silu",
        "rope_theta": metadata.number("rope.freq_base", 10_000.0),
        "rope_scaling": _rope_scaling(metadata),
    }
    if metadata.architecture == "llama":
        if metadata.has("attention.sliding_window"):
            config |= {"model_type": "mistral", "sliding_window": metadata.count("attention.sliding_window")}
        else:
            config["attention_bias"] = metadata.has_tensor("blk.0.attn_q.bias")
            config["mlp_bias"] = metadata.has_tensor("blk.0.ffn_up.bias")
    return config


def _rope_scaling(metadata: _Metadata) -> dict[str, Any] | None:
    """The rule that stretches the positions; a file that only has a factor means the linear one."""
    old = "rope.scale_linear"
    factor = metadata.number("rope.scaling.factor", metadata.number(old, 1.0))
    rule = metadata.text("rope.scaling.type", "linear")
    metadata.skip("rope.scaling.original_context_length", "rope.scaling.finetuned")  # only the rule of YaRN reads them
    if rule not in ("none", "linear"):
        raise metadata.wrong(
            f"{metadata.architecture}.rope.scaling.type is {shown(rule)}, but it must be 'none' or 'linear'"
        )
    if rule == "none" or factor in (0.0, 1.0):
        return None
    return {"rope_type": "linear", "factor": factor}


def _gpt2(metadata: _Metadata) -> dict[str, Any]:
    config = _common(metadata)
    names = {"num_hidden_layers": "n_layer", "hidden_size": "n_embd", "num_attention_heads": "n_head",
             "max_position_embeddings": "n_positions"}  # fmt: skip
    if metadata.kv_heads != metadata.heads:
        raise metadata.wrong(
            f"gpt2.attention.head_count_kv is {metadata.kv_heads}, but there are {metadata.heads} heads"
        )
    return {names.get(key, key): value for key, value in config.items()} | {
        "n_inner": metadata.count("feed_forward_length"),
        "layer_norm_epsilon": metadata.number("attention.layer_norm_epsilon"),
        "activation_function": "gelu_new",
    }


_ROTARY = ("attn_q", "attn_k")
_ARCHITECTURES: Mapping[Any, _Architecture] = {
    "llama": _Architecture("model.layers.", _LLAMA_LAYER, _LLAMA_OUTSIDE, _ROTARY, (), _llama),
    "qwen2": _Architecture("model.layers.", _LLAMA_LAYER, _LLAMA_OUTSIDE, (), (), _llama),
    "qwen3": _Architecture("model.layers.", _LLAMA_LAYER, _LLAMA_OUTSIDE, (), (), _llama),
    "gpt2": _Architecture(
        "transformer.h.", _GPT2_LAYER, _GPT2_OUTSIDE, (), ("attn_qkv", "attn_output", "ffn_up", "ffn_down"), _gpt2
    ),
}
"""`general.architecture` -> how it is read."""
