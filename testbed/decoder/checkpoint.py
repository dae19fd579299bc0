"""Checks a Hugging Face checkpoint folder and finds which file holds which tensor.

This module reads only the headers of safetensors files and no weights, so a dry run can use it. The check before a run
and the decoder find tensors through the same function, so they always agree on the files.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from safetensors import SafetensorError, safe_open

from testbed.decoder.config_json import CONFIG, JSON_BYTES
from testbed.decoder.families import Family, family_in, read_shape
from testbed.errors import ConfigError
from testbed.files import open_file
from testbed.shape import ModelShape
from testbed.strict_json import read_object
from testbed.strict_yaml import require_mapping, shown

SINGLE = "model.safetensors"
SHARD_INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"

DTYPES = ("F64", "F32", "F16", "BF16")  # the words of safetensors for float64, float32, float16 and bfloat16
_HEADER_BYTES = 8 * 2**20  # the longest header that is read; the one of gpt2 has 15 kB
_LENGTH_BYTES = 8  # a file begins with the length of its header
_COMPARED_BYTES = 1 << 20  # bytes compared at a time
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".bin.index.json")
_BESIDE_WEIGHTS = re.compile(r"(training_args|optimizer|scheduler|scaler)\..*|rng_state.*")  # files of a Trainer
_OTHER_SUFFIXES = (".safetensors", ".gguf", ".h5", ".msgpack", ".onnx", ".npz")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as the header of its file describes it."""

    file: Path
    dtype: str  # in the words of safetensors, like `F32`
    dims: tuple[int, ...]


def check_checkpoint(folder: Path) -> None:
    """Raise ConfigError naming the first mistake in a checkpoint folder.

    A folder without any weights passes, because a simulation needs none; `require_weights` refuses it.
    """
    try:
        there = folder.is_dir()
    except OSError as error:
        raise ConfigError(f"{shown(str(folder))}: the folder cannot be read: {error.strerror}") from error
    if not there:
        raise ConfigError(f"{folder}: there is no such folder; model.path must be a Hugging Face checkpoint's")
    shape = read_shape(folder)
    if (folder / ADAPTER).exists():
        raise ConfigError(f"{folder / ADAPTER}: an adapter changes the weights: merge the two, and remove this file")
    tensors = find_tensors(folder)
    if tensors is not None:
        _check_tensors(folder, family_in(folder), shape, tensors)


def require_weights(folder: Path) -> dict[str, StoredTensor]:
    """The tensors that `find_tensors` finds; raises ConfigError for a folder without weights."""
    tensors = find_tensors(folder)
    if tensors is None:
        raise ConfigError(
            f"{folder / SINGLE}: there is no such file, and no {SHARD_INDEX} either; without weights a model can only "
            "be simulated, by --backend sim"
        )
    return tensors


def find_tensors(folder: Path) -> dict[str, StoredTensor] | None:
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


@contextmanager
def opened_tensors(file: Path, framework: Literal["np", "pt"]) -> Iterator[Any]:
    """Open a safetensors file; raises ConfigError if it is damaged or lacks a tensor that is read from it."""
    with open_file(file) as opened:
        size = int.from_bytes(opened.read(_LENGTH_BYTES), "little")
    if size > _HEADER_BYTES:
        raise ConfigError(_damaged(file, f"its header has {size} bytes, and at most {_HEADER_BYTES} are read"))
    try:
        with safe_open(file, framework=framework) as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise ConfigError(_damaged(file, str(error))) from error


def _damaged(file: Path, reason: str) -> str:
    reason = ascii(" ".join(reason.split()))[1:-1]  # the message may quote the file
    reason = reason if len(reason) <= 160 else f"{reason[:157]}..."
    return f"{_plain(file)}: this is not the safetensors file that the checkpoint needs: {reason}"


def _read_header(file: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file by name."""
    with opened_tensors(file, "np") as tensors:
        slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 (it is no mapping)
        return {name: StoredTensor(file, one.get_dtype(), tuple(one.get_shape())) for name, one in slices.items()}


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
            raise ConfigError(f"{_plain(folder / shard)}: has no tensor {shown(name)}, but {SHARD_INDEX} says so")
    for shard, tensors in shards.items():
        for name in tensors:
            if weight_map.get(name) != shard:
                other = f"has it in {shown(weight_map[name])}" if name in weight_map else "does not name it"
                raise ConfigError(f"{_plain(folder / shard)}: has the tensor {shown(name)}, but {SHARD_INDEX} {other}")
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
                f"{_plain(folder / name)}: this is a pickle, which can run code when it is read, and is not loaded; if "
                'you trust it, convert it by python -c "from transformers import AutoModelForCausalLM as M; '
                f'M.from_pretrained({there}).save_pretrained({there})"'
            )
    for name in names:
        if name.endswith(_OTHER_SUFFIXES):
            raise ConfigError(f"{_plain(folder / name)}: weights must be in {SINGLE}, or in shards with {SHARD_INDEX}")


def _check_tensors(folder: Path, family: Family, shape: ModelShape, tensors: Mapping[str, StoredTensor]) -> None:
    """Raise ConfigError for the first tensor that is missing, has another type or shape, or is not of this family."""
    own = {name: one for name, one in tensors.items() if family.is_weight(name)}
    for name, one in own.items():
        if one.dtype not in DTYPES:
            raise ConfigError(
                f"{_plain(one.file)}: tensor {shown(name)} is of type {one.dtype}, but it must be one of "
                f"{', '.join(DTYPES)}: quantised weights must be turned back into one of these first"
            )
    prefix, lm_head, known = family.prefix_of(own), family.LM_HEAD, set()
    wanted = ((prefix + name, dims) for name, dims in family.tensors(shape))
    head = [(lm_head, (shape.vocab, shape.width))] if not shape.tied_embedding or lm_head in own else []
    for name, dims in itertools.chain(wanted, head):  # one by one, because a config may ask for millions
        if name not in own:
            other = next((other for other in own if other.endswith(f".{name.removeprefix(prefix)}")), None)
            hint = f"; {shown(other)} is not the name it has in a {family.TITLE}" if other else ""
            raise ConfigError(f"{folder}: has no tensor {name!r}, which {CONFIG} asks for{hint}")
        if own[name].dims != dims:
            raise ConfigError(
                f"{_plain(own[name].file)}: tensor {name!r} has shape {shown(list(own[name].dims))}, "
                f"but {CONFIG} asks for {list(dims)}"
            )
        known.add(name)
    for name, one in own.items():
        if name not in known:
            raise ConfigError(
                f"{_plain(one.file)}: tensor {shown(name)} is no part of the {family.TITLE} that {CONFIG} describes"
            )
    embedding = prefix + family.TOKENS
    if shape.tied_embedding and lm_head in own and not _same_bytes(lm_head, embedding, own):
        raise ConfigError(
            f"{_plain(own[lm_head].file)}: {lm_head} differs from {embedding}, though {CONFIG} ties the two: say "
            '"tie_word_embeddings": false there'
        )


def _same_bytes(name: str, other: str, tensors: Mapping[str, StoredTensor]) -> bool:
    """Whether two tensors of the same shape are equal bit by bit."""
    if tensors[name].dtype != tensors[other].dtype:
        return False
    with open_file(tensors[name].file) as one, open_file(tensors[other].file) as two:
        left = _go_to(one, name)
        _go_to(two, other)
        while left > 0:
            size = min(left, _COMPARED_BYTES)
            if one.read(size) != two.read(size):
                return False
            left -= size
    return True


def _go_to(file: BinaryIO, name: str) -> int:
    """Seek the first byte of a tensor in a file with a checked header; returns the tensor's size in bytes."""
    size = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    start, end = json.loads(file.read(size))[name]["data_offsets"]
    file.seek(_LENGTH_BYTES + size + start)
    return int(end - start)


def _plain(path: Path) -> str:
    """A path as an error shows it: control characters are escaped, and a very long path is cut."""
    text = str(path)
    return text if text.isprintable() and len(text) <= 300 else shown(text)
