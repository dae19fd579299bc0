"""Checkpoint folders with any config and any header, and with weights of zeros."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from testbed.decoder.families import gpt2, shape_from_config

CONFIG: dict[str, Any] = {
    "model_type": "gpt2", "n_embd": 4, "n_head": 2, "n_layer": 1, "n_positions": 8, "vocab_size": 16, "n_inner": 6,
}  # fmt: skip
ELEMENT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
                 "F8_E4M3": 1, "F8_E5M2": 1}  # fmt: skip
Dims = tuple[int, ...]


def tensors_of(config: Mapping[str, Any], prefix: str = "transformer.") -> dict[str, tuple[str, Dims]]:
    """The (type, dimensions) of each tensor of the float32 checkpoint that a config describes, by name."""
    shape = shape_from_config(config)
    found = {prefix + name: ("F32", dims) for name, dims in gpt2.tensors(shape)}
    return found if shape.tied_embedding else found | {"lm_head.weight": ("F32", (shape.vocab, shape.width))}


def header_of(tensors: Mapping[str, tuple[str, Dims]]) -> tuple[dict[str, Any], int]:
    """A safetensors header for these tensors in this order, and the size of their data in bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, dims) in tensors.items():
        start, size = end, ELEMENT_BYTES[dtype]
        for dim in dims:
            size *= dim
        end = start + size
        header[name] = {"dtype": dtype, "shape": list(dims), "data_offsets": [start, end]}
    return header, end


def with_length(header: bytes) -> bytes:
    """A header with its length before it, as at the start of a file."""
    return len(header).to_bytes(8, "little") + header


def write_tensors(file: Path, tensors: Mapping[str, tuple[str, Dims]]) -> None:
    """A safetensors file with these tensors, all zeros."""
    header, size = header_of(tensors)
    file.write_bytes(with_length(json.dumps(header).encode()) + bytes(size))


def write_checkpoint(folder: Path, config: Mapping[str, Any] = CONFIG, prefix: str = "transformer.") -> Path:
    """A folder with a config and its weights in one file."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    write_tensors(folder / "model.safetensors", tensors_of(config, prefix))
    return folder


def shard(folder: Path, shards: Mapping[str, Mapping[str, tuple[str, Dims]]]) -> None:
    """Replace the folder's single file by shards and their index."""
    (folder / "model.safetensors").unlink(missing_ok=True)
    for file, tensors in shards.items():
        write_tensors(folder / file, tensors)
    weight_map = {name: file for file, tensors in shards.items() for name in tensors}
    write_index(folder, weight_map)


def write_index(folder: Path, weight_map: Mapping[str, Any]) -> None:
    """The index of a folder's shards."""
    index = {"metadata": {"total_size": 0}, "weight_map": dict(weight_map)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
