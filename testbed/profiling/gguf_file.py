"""Writes a Llama as a GGUF file without a tokenizer, so that other engines can be timed with models of any shape.

The format is that of github.com/ggml-org/ggml, docs/gguf.md, version 3.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from testbed.formats import packed_bytes
from testbed.shape import ModelShape

ALIGNMENT = 32
TYPE_NUMBERS: Mapping[str, int] = {"float32": 0, "float16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 8, "bfloat16": 30}
"""ggml_type of the formats of this package."""

_UINT32, _FLOAT32, _STRING = 4, 6, 8  # gguf_metadata_value_type

Content = Callable[[str, str, int, int], bytes]
"""(name in the file, format, rows, columns) -> the tensor's bytes."""


def write_llama(file: Path, shape: ModelShape, content: Content) -> Path:
    """Write a model with Llama's tensors and the shape's formats; norms are float32."""
    tensors = _tensors(shape)
    metadata = _metadata(shape)
    with file.open("wb") as out:
        out.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
        for key, value in metadata.items():
            out.write(_text(key) + _typed(value))
        at = 0
        for name, (form, rows, columns) in tensors.items():
            dims = (columns, rows) if rows > 1 else (columns,)
            out.write(_text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, TYPE_NUMBERS[form], at))
            at += _aligned(packed_bytes(form, rows, columns))
        _pad(out)
        for name, (form, rows, columns) in tensors.items():
            data = content(name, form, rows, columns)
            if len(data) != packed_bytes(form, rows, columns):
                raise ValueError(f"{name} has {len(data)} bytes, but {rows} x {columns} in {form} has another number")
            out.write(data)
            _pad(out)
    return file


def _tensors(shape: ModelShape) -> dict[str, tuple[str, int, int]]:
    """Name -> (format, rows, columns) of each tensor of a Llama."""
    D, F, d, formats = shape.width, shape.ffn_width, shape.head_dim, shape.weights
    found = {"token_embd.weight": (formats.tokens, shape.vocab, D), "output_norm.weight": ("float32", 1, D)}
    if not shape.tied_embedding:
        found["output.weight"] = (formats.lm_head, shape.vocab, D)
    for layer in range(shape.layers):
        own = {
            "attn_norm": ("float32", 1, D),
            "attn_q": (formats.qkv, shape.heads * d, D),
            "attn_k": (formats.qkv, shape.kv_heads * d, D),
            "attn_v": (formats.qkv, shape.kv_heads * d, D),
            "attn_output": (formats.proj, D, shape.heads * d),
            "ffn_norm": ("float32", 1, D),
            "ffn_gate": (formats.ffn_in, F, D),
            "ffn_up": (formats.ffn_in, F, D),
            "ffn_down": (formats.ffn_out, D, F),
        }
        found |= {f"blk.{layer}.{name}.weight": size for name, size in own.items()}
    return found


def _metadata(shape: ModelShape) -> dict[str, int | float | str]:
    assert shape.rope is not None
    own = {
        "block_count": shape.layers, "context_length": shape.positions, "embedding_length": shape.width,
        "feed_forward_length": shape.ffn_width, "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads, "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim, "attention.layer_norm_rms_epsilon": shape.norm_epsilon,
        "rope.freq_base": shape.rope.theta, "rope.dimension_count": shape.head_dim, "vocab_size": shape.vocab,
    }  # fmt: skip
    return {
        "general.architecture": "llama",
        **{f"llama.{key}": value for key, value in own.items()},
        "tokenizer.ggml.model": "none",
    }


def _typed(value: int | float | str) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    return struct.pack("<If", _FLOAT32, value) if isinstance(value, float) else struct.pack("<II", _UINT32, value)


def _text(value: str) -> bytes:
    content = value.encode()
    return struct.pack("<Q", len(content)) + content


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _pad(out: BinaryIO) -> None:
    out.write(bytes(_aligned(out.tell()) - out.tell()))
