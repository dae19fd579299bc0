"""GGUF files of any content: whole models with random weights, and files that no honest program writes."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from testbed.decoder.stored import STORED_FORMATS, stored_bytes
from testbed.decoder.widen import SCALES

KINDS = {"float32": 0, "float16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "q2_k": 10, "q3_k": 11,
         "q4_k": 12, "q5_k": 13, "q6_k": 14, "iq4_nl": 20, "float64": 28, "bfloat16": 30}  # fmt: skip
ALIGNMENT = 32
Dims = tuple[int, ...]


@dataclass(frozen=True)
class Typed:
    """A metadata value of a given type, by the format's number."""

    kind: int
    packed: bytes


@dataclass
class GgufCase:
    """What a file has; each part can be made wrong."""

    metadata: dict[str, Any]
    tensors: dict[str, tuple[str | int, Dims, bytes]]  # (format or number of a type, dims (out, in), data)
    magic: bytes = b"GGUF"
    version: int = 3
    order: str = "<"
    counts: tuple[int | None, int | None] = (None, None)  # of tensors and of keys; None: as many as there are
    offsets: dict[str, int] = field(default_factory=dict)  # in place of the right ones

    def header(self) -> bytes:
        """The file up to its data, which begins at a multiple of the alignment."""
        order = self.order
        counts = [len(self.tensors), len(self.metadata)]
        told = [own if other is None else other for own, other in zip(counts, self.counts, strict=True)]
        parts = [self.magic, struct.pack(f"{order}IQQ", self.version, *told)]
        for key, value in self.metadata.items():
            kind, packed = typed(value, order)
            parts += [text(key, order), struct.pack(f"{order}I", kind), packed]
        at = 0
        for name, (form, dims, data) in self.tensors.items():
            kind = KINDS[form] if isinstance(form, str) else form
            parts += [text(name, order), struct.pack(f"{order}I{len(dims)}Q", len(dims), *dims[::-1])]
            parts.append(struct.pack(f"{order}IQ", kind, self.offsets.get(name, at)))
            at += padded(len(data))
        content = b"".join(parts)
        return content + bytes(padded(len(content)) - len(content))

    def content(self) -> bytes:
        """The whole file."""
        data = [data + bytes(padded(len(data)) - len(data)) for _, _, data in self.tensors.values()]
        return b"".join([self.header(), *data])

    def write(self, file: Path) -> Path:
        file.write_bytes(self.content())
        return file


def padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def text(value: str, order: str = "<") -> bytes:
    content = value.encode()
    return struct.pack(f"{order}Q", len(content)) + content


def typed(value: Any, order: str = "<") -> tuple[int, bytes]:
    """The type of a metadata value and its bytes."""
    if isinstance(value, Typed):
        return value.kind, value.packed
    if isinstance(value, bool):
        return 7, struct.pack("?", value)
    if isinstance(value, int):
        return 4, struct.pack(f"{order}I", value)
    if isinstance(value, float):
        return 6, struct.pack(f"{order}f", value)
    if isinstance(value, str):
        return 8, text(value, order)
    kinds = [typed(one, order) for one in value]
    packed = b"".join(one for _, one in kinds)
    return 9, struct.pack(f"{order}IQ", kinds[0][0] if kinds else 4, len(kinds)) + packed


def random_bytes(form: str, dims: Dims, draw: np.random.Generator, scale: float = 0.05) -> bytes:
    """Random stored values of about a size; every pattern of bits between the scales of a block occurs."""
    if form in ("float32", "float64", "float16"):
        return (draw.standard_normal(dims) * scale).astype(form).tobytes()
    if form == "bfloat16":
        bits = (draw.standard_normal(dims) * scale).astype(np.float32).view(np.uint32)
        return (bits >> 16).astype(np.uint16).tobytes()
    one = STORED_FORMATS[form]
    blocks = draw.integers(0, 256, (stored_bytes(form, dims) // one.block_bytes, one.block_bytes), np.uint8)
    for at in SCALES[form]:
        steps = (draw.standard_normal((len(blocks), 1)) * scale / 16).astype(np.float16)
        blocks[:, at : at + 2] = steps.view(np.uint8)
    return blocks.tobytes()


def llama_metadata(**changes: Any) -> dict[str, Any]:
    """The metadata of a Llama of two layers; a key with the value None is left out."""
    own = {
        "block_count": 2, "context_length": 64, "embedding_length": 256, "feed_forward_length": 512,
        "attention.head_count": 4, "attention.head_count_kv": 2, "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 10000.0, "vocab_size": 96, "rope.dimension_count": 64,
    }  # fmt: skip
    metadata = {"general.architecture": "llama"} | {f"llama.{key}": value for key, value in own.items()}
    return {key: value for key, value in (metadata | changes).items() if value is not None}


def llama_dims(
    layers: int = 2, width: int = 256, heads: int = 4, kv_heads: int = 2, ffn: int = 512, vocab: int = 96,
    tied: bool = True,
) -> dict[str, Dims]:  # fmt: skip
    """The dimensions (out, in) of a Llama's tensors by their names in a GGUF file."""
    d = width // heads
    dims: dict[str, Dims] = {"token_embd.weight": (vocab, width), "output_norm.weight": (width,)}
    for layer in range(layers):
        one: dict[str, Dims] = {
            "attn_norm": (width,), "attn_q": (width, width), "attn_k": (kv_heads * d, width),
            "attn_v": (kv_heads * d, width), "attn_output": (width, width), "ffn_norm": (width,),
            "ffn_gate": (ffn, width), "ffn_up": (ffn, width), "ffn_down": (width, ffn),
        }  # fmt: skip
        dims |= {f"blk.{layer}.{name}.weight": size for name, size in one.items()}
    return dims if tied else dims | {"output.weight": (vocab, width)}


def gpt2_dims(
    layers: int = 2, width: int = 64, ffn: int = 128, vocab: int = 96, positions: int = 32
) -> dict[str, Dims]:
    """The dimensions (out, in) of a GPT-2's tensors by their names in a GGUF file."""
    dims: dict[str, Dims] = {
        "token_embd.weight": (vocab, width), "position_embd.weight": (positions, width),
        "output_norm.weight": (width,), "output_norm.bias": (width,),
    }  # fmt: skip
    for layer in range(layers):
        one: dict[str, Dims] = {
            "attn_norm": (width,), "attn_qkv": (3 * width, width), "attn_output": (width, width),
            "ffn_norm": (width,), "ffn_up": (ffn, width), "ffn_down": (width, ffn),
        }  # fmt: skip
        for name, size in one.items():
            dims |= {f"blk.{layer}.{name}.weight": size, f"blk.{layer}.{name}.bias": size[:1]}
    return dims


def gpt2_metadata(**changes: Any) -> dict[str, Any]:
    """The metadata of a GPT-2 of two layers."""
    own = {
        "block_count": 2, "context_length": 32, "embedding_length": 64, "feed_forward_length": 128,
        "attention.head_count": 2, "attention.layer_norm_epsilon": 1e-5,
    }  # fmt: skip
    tokens = {"tokenizer.ggml.tokens": [str(word) for word in range(96)]}
    metadata = {"general.architecture": "gpt2"} | {f"gpt2.{key}": value for key, value in own.items()} | tokens
    return {key: value for key, value in (metadata | changes).items() if value is not None}


def random_case(
    metadata: Mapping[str, Any], dims: Mapping[str, Dims], form: str = "float32", seed: int = 0, **formats: str
) -> GgufCase:
    """A file with random weights: matrices in `form`, or in the format of the first key of `formats` in their name."""
    draw = np.random.default_rng(seed)
    tensors: dict[str, tuple[str | int, Dims, bytes]] = {}
    for name, size in dims.items():
        own = next((other for part, other in formats.items() if part in name), form) if len(size) > 1 else "float32"
        tensors[name] = (own, size, random_bytes(own, size, draw))
    return GgufCase(dict(metadata), tensors)
