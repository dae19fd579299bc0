"""Finds the tensors of a Hugging Face folder: in one safetensors file, or in shards with an index.

Only headers are read, and no weights.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from testbed.decoder.config_json import JSON_BYTES
from testbed.decoder.stored import StoredTensor, file_name
from testbed.errors import ConfigError
from testbed.files import open_file
from testbed.strict_json import parse_object, read_object
from testbed.strict_yaml import require_mapping, shown

SINGLE = "model.safetensors"
SHARD_INDEX = "model.safetensors.index.json"

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""The words of safetensors for the types that are read."""

_HEADER_BYTES = 8 * 2**20  # the longest header that is read; the one of gpt2 has 15 kB
_LENGTH_BYTES = 8  # a file begins with the length of its header
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".bin.index.json")
_BESIDE_WEIGHTS = re.compile(r"(training_args|optimizer|scheduler|scaler)\..*|rng_state.*")  # files of a Trainer
_OTHER_SUFFIXES = (".safetensors", ".h5", ".msgpack", ".onnx", ".npz")


def tensors_in_folder(folder: Path) -> dict[str, StoredTensor] | None:
    """The tensors of a folder by name, or None if it has no weights.

    Like transformers, this reads `model.safetensors` if it exists, else the index of shards. Raises ConfigError for
    damaged headers, for an index that disagrees with its shards, and for weights in another format.
    """
    if (folder / SINGLE).exists():
        return _read_header(folder / SINGLE)
    if (folder / SHARD_INDEX).exists():
        return _sharded(folder)
    _refuse_other_formats(folder)
    return None


def _read_header(file: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file by name; raises ConfigError if the file is damaged or not whole."""
    with open_file(file) as opened:
        size = int.from_bytes(opened.read(_LENGTH_BYTES), "little")
        if size > _HEADER_BYTES:
            raise _damaged(file, f"its header has {size} bytes, and at most {_HEADER_BYTES} are read")
        content = opened.read(size)
    try:
        with safe_open(file, framework="np"):  # the library checks types, shapes and offsets, and the file's size
            pass
    except (SafetensorError, OSError) as error:
        raise _damaged(file, str(error)) from error
    header = parse_object(content, file_name(file))
    header.pop("__metadata__", None)
    return {name: _tensor(file, name, entry, _LENGTH_BYTES + size) for name, entry in header.items()}


def _tensor(file: Path, name: str, entry: Any, data: int) -> StoredTensor:
    start, end = entry["data_offsets"]
    dtype = entry["dtype"]
    return StoredTensor(file, DTYPES.get(dtype, dtype), tuple(entry["shape"]), data + start, end - start, name)


def _damaged(file: Path, reason: str) -> ConfigError:
    reason = ascii(" ".join(reason.split()))[1:-1]  # the message may quote the file
    reason = reason if len(reason) <= 160 else f"{reason[:157]}..."
    return ConfigError(f"{file_name(file)}: this is not the safetensors file that the checkpoint needs: {reason}")


def _sharded(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of all shards by name; raises ConfigError if the index and the shards disagree."""
    index = folder / SHARD_INDEX
    weight_map = require_mapping(read_object(index, JSON_BYTES).get("weight_map"), str(index), "weight_map")
    shards: dict[str, dict[str, StoredTensor]] = {}
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not shard or Path(shard).is_absolute() or ".." in Path(shard).parts:
            raise ConfigError(f"{index}: {shown(name)} is in {shown(shard)}, which is no name of a file in this folder")
        if shard not in shards:
            try:
                shards[shard] = _read_header(folder / shard)
            except ConfigError as error:
                raise ConfigError(f"{error} ({SHARD_INDEX} names it)") from error
        if name not in shards[shard]:
            raise ConfigError(f"{file_name(folder / shard)}: has no tensor {shown(name)}, but {SHARD_INDEX} says so")
    for shard, tensors in shards.items():
        for name in tensors:
            if weight_map.get(name) != shard:
                other = f"has it in {shown(weight_map[name])}" if name in weight_map else "does not name it"
                raise ConfigError(
                    f"{file_name(folder / shard)}: has the tensor {shown(name)}, but {SHARD_INDEX} {other}"
                )
    return {name: shards[shard][name] for name, shard in weight_map.items()}


def _refuse_other_formats(folder: Path) -> None:
    """Raise ConfigError if a folder has weights in another format."""
    try:
        names = sorted(name for name in os.listdir(folder) if not _BESIDE_WEIGHTS.fullmatch(name))
    except OSError as error:
        raise ConfigError(f"{folder}: the folder cannot be read: {error.strerror}") from error
    for name in names:
        if name.endswith(_PICKLE_SUFFIXES):
            there = repr(str(folder))
            raise ConfigError(
                f"{file_name(folder / name)}: this is a pickle, which can run code when it is read, and is not loaded; "
                'if you trust it, convert it by python -c "from transformers import AutoModelForCausalLM as M; '
                f'M.from_pretrained({there}).save_pretrained({there})"'
            )
    for name in names:
        if name.endswith(_OTHER_SUFFIXES):
            raise ConfigError(
                f"{file_name(folder / name)}: weights must be in {SINGLE}, or in shards with {SHARD_INDEX}, or in one "
                ".gguf file"
            )
