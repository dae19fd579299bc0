"""The weights of a Hugging Face checkpoint folder, seen from outside: which file has which tensor, and is it all there?

Reads the headers of safetensors files and not the weights, so that a dry run can ask. The check before a run and the
decoder find tensors by the same function, and so cannot disagree on which file counts.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from safetensors import SafetensorError, safe_open

from testbed.decoder.config_json import CONFIG, JSON_BYTES, read_shape
from testbed.errors import ConfigError
from testbed.files import open_file
from testbed.shape import ModelShape
from testbed.strict_json import read_object
from testbed.strict_yaml import require_mapping, shown

SINGLE = "model.safetensors"
SHARD_INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
LM_HEAD = "lm_head.weight"
TOKENS = "wte.weight"

DTYPES = ("F64", "F32", "F16", "BF16")  # as safetensors says float64, float32, float16 and bfloat16
_HEADER_BYTES = 8 * 2**20  # of gpt2: 15 kB
_LENGTH_BYTES = 8  # a file begins with its header's length
_COMPARED_BYTES = 1 << 20  # at a time
_PREFIX = "transformer."  # of a GPT2LMHeadModel's tensors
_MASK = re.compile(r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias")  # older versions stored these, which are no weights
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".bin.index.json")
_BESIDE_WEIGHTS = re.compile(r"(training_args|optimizer|scheduler|scaler)\..*|rng_state.*")  # a Trainer's
_OTHER_SUFFIXES = (".safetensors", ".gguf", ".h5", ".msgpack", ".onnx", ".npz")


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor is, and what the file's header says of it."""

    file: Path
    dtype: str  # safetensors' word, as `F32`
    dims: tuple[int, ...]


def check_checkpoint(folder: Path) -> None:
    """Raise a ConfigError naming the first thing that is wrong with a checkpoint folder.

    Weights may be missing altogether: nothing but computing needs them, and `require_weights` asks for them.
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
        _check_tensors(folder, shape, tensors)


def require_weights(folder: Path) -> dict[str, StoredTensor]:
    """What `find_tensors` finds; raises ConfigError for a folder that has no weights."""
    tensors = find_tensors(folder)
    if tensors is None:
        raise ConfigError(
            f"{folder / SINGLE}: there is no such file, and no {SHARD_INDEX} either; without weights a model can only "
            "be simulated, by --backend sim"
        )
    return tensors


def find_tensors(folder: Path) -> dict[str, StoredTensor] | None:
    """Name -> where each tensor of a folder is; None where there are no weights.

    `model.safetensors` counts where it exists, and an index of shards where not, as for transformers. Raises
    ConfigError for damaged headers, an index and shards that do not agree, and weights in another format only.
    """
    if (folder / SINGLE).exists():
        return _read_header(folder / SINGLE)
    if (folder / SHARD_INDEX).exists():
        return _sharded(folder)
    _refuse_other_formats(folder)
    return None


def prefix_of(names: Iterable[str]) -> str:
    """What stands before the name of each tensor but the LM head: `transformer.`, or nothing for a bare GPT2Model."""
    return _PREFIX if any(name.startswith(_PREFIX) for name in names) else ""


def gpt2_tensors(shape: ModelShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name, without a prefix, and dimensions of each tensor of a GPT-2 of this shape but the LM head."""
    D, F = shape.width, shape.ffn_width
    yield TOKENS, (shape.vocab, D)
    yield "wpe.weight", (shape.positions, D)
    yield from _module("ln_f", D)
    for layer in range(shape.layers):
        yield from _module(f"h.{layer}.ln_1", D)
        yield from _module(f"h.{layer}.attn.c_attn", D, 3 * D)
        yield from _module(f"h.{layer}.attn.c_proj", D, D)
        yield from _module(f"h.{layer}.ln_2", D)
        yield from _module(f"h.{layer}.mlp.c_fc", D, F)
        yield from _module(f"h.{layer}.mlp.c_proj", F, D)


@contextmanager
def opened_tensors(file: Path, framework: Literal["np", "pt"]) -> Iterator[Any]:
    """A safetensors file open for reading; raises ConfigError for one that is damaged or lacks what is asked of it."""
    with open_file(file) as opened:
        size = int.from_bytes(opened.read(_LENGTH_BYTES), "little")
    if size > _HEADER_BYTES:
        raise ConfigError(_damaged(file, f"its header has {size} bytes, and at most {_HEADER_BYTES} are read"))
    try:
        with safe_open(file, framework=framework) as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise ConfigError(_damaged(file, str(error))) from error


def _module(name: str, *dims: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Weight and bias of a layer norm (D,), or of a linear layer (in, out)."""
    yield f"{name}.weight", dims
    yield f"{name}.bias", dims[-1:]


def _damaged(file: Path, told: str) -> str:
    told = ascii(" ".join(told.split()))[1:-1]  # what the file says may be quoted in it
    told = told if len(told) <= 160 else f"{told[:157]}..."
    return f"{_plain(file)}: this is not the safetensors file that the checkpoint needs: {told}"


def _read_header(file: Path) -> dict[str, StoredTensor]:
    """Name -> tensor of one safetensors file."""
    with opened_tensors(file, "np") as tensors:
        slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 (it is no mapping)
        return {name: StoredTensor(file, one.get_dtype(), tuple(one.get_shape())) for name, one in slices.items()}


def _sharded(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of all shards; raises ConfigError where the index and they do not agree."""
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
    """Raise a ConfigError where a folder has weights, but none that we read."""
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


def _check_tensors(folder: Path, shape: ModelShape, tensors: Mapping[str, StoredTensor]) -> None:
    """Raise a ConfigError for the first tensor that is of another type or shape, missing, or not a GPT-2's."""
    own = {name: one for name, one in tensors.items() if not _MASK.fullmatch(name)}
    for name, one in own.items():
        if one.dtype not in DTYPES:
            raise ConfigError(
                f"{_plain(one.file)}: tensor {shown(name)} is of type {one.dtype}, but it must be one of "
                f"{', '.join(DTYPES)}: quantised weights must be turned back into one of these first"
            )
    prefix, known = prefix_of(own), set()
    wanted = ((prefix + name, dims) for name, dims in gpt2_tensors(shape))
    head = [(LM_HEAD, (shape.vocab, shape.width))] if not shape.tied_embedding or LM_HEAD in own else []
    for name, dims in itertools.chain(wanted, head):  # not all at once: a config may ask for millions
        if name not in own:
            other = next((other for other in own if other.endswith(f".{name.removeprefix(prefix)}")), None)
            hint = f"; {shown(other)} is not the name it has in a GPT-2" if other else ""
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
                f"{_plain(one.file)}: tensor {shown(name)} is no part of the GPT-2 that {CONFIG} describes"
            )
    if shape.tied_embedding and LM_HEAD in own and not _same_bytes(LM_HEAD, prefix + TOKENS, own):
        raise ConfigError(
            f"{_plain(own[LM_HEAD].file)}: {LM_HEAD} differs from {prefix}{TOKENS}, though {CONFIG} ties the two: say "
            '"tie_word_embeddings": false there'
        )


def _same_bytes(name: str, other: str, tensors: Mapping[str, StoredTensor]) -> bool:
    """Whether two tensors of one shape are the same, bit for bit."""
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
    """Seek where a tensor's bytes begin, in a file whose header has been checked; returns how many there are."""
    size = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    start, end = json.loads(file.read(size))[name]["data_offsets"]
    file.seek(_LENGTH_BYTES + size + start)
    return int(end - start)


def _plain(path: Path) -> str:
    """A path as a message shows it: what would move a terminal's cursor is escaped, and what is very long is cut."""
    text = str(path)
    return text if text.isprintable() and len(text) <= 300 else shown(text)
