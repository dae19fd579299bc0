"""Reads what a checkpoint says of its model, and checks it: a Hugging Face folder, or a GGUF file.

Only headers are read and no weights, so a dry run can use this module. The check before a run and the workers go by the
same description of the tensors, so they always agree on the files.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from testbed.decoder.config_json import CONFIG, JSON_BYTES, config_format
from testbed.decoder.families import FAMILIES, Family, shape_from_config
from testbed.decoder.gguf_header import GgufHeader, read_header
from testbed.decoder.gguf_model import ROPE_FACTORS, own_name, read_config, rope_factors, tensors_of_header
from testbed.decoder.pieces import piece_of
from testbed.decoder.safetensors_files import DTYPES, SHARD_INDEX, SINGLE, tensors_in_folder
from testbed.decoder.stored import (
    STORED_FORMATS,
    StoredModel,
    StoredTensor,
    file_name,
    lossless_format,
    tensor_name,
)
from testbed.errors import ConfigError
from testbed.files import open_file
from testbed.formats import PLAIN
from testbed.placement.blocks import WHOLE, tensors_of
from testbed.shape import ModelShape, WeightFormats
from testbed.strict_json import read_object
from testbed.strict_yaml import shown

ADAPTER = "adapter_config.json"
GGUF_SUFFIX = ".gguf"
_COMPARED_BYTES = 1 << 20  # bytes compared at a time

# The matrices of each role, as tensors of blocks; a norm or a bias has no role.
_ROLES = {
    "qkv": ("head", "qkv_weight"),
    "proj": ("proj", "weight"),
    "ffn_in": ("ffn", "in_weight"),
    "ffn_out": ("ffn", "out_weight"),
    "tokens": ("embed", "tokens"),
    "positions": ("embed", "positions"),
    "lm_head": ("embed", "lm_head"),
}


@dataclass(frozen=True)
class _Checkpoint:
    """A checkpoint before its tensors are looked at."""

    path: Path  # as the user named it
    config: Mapping[str, Any]  # its config.json, or what a GGUF file's metadata says in the words of one
    shape: ModelShape  # with the weights in float32
    header: GgufHeader | None = None  # None for a Hugging Face folder

    @property
    def family(self) -> Family:
        return FAMILIES[self.config["model_type"]]

    def tensors(self) -> dict[str, StoredTensor] | None:
        """The tensors by the names of a Hugging Face checkpoint; None for a folder without weights.

        Raises ConfigError for the first mistake in them.
        """
        found = tensors_in_folder(self.path) if self.header is None else tensors_of_header(self.header)
        if found is None:
            return None
        weights = {name: one for name, one in found.items() if self.family.is_weight(name)}
        _check_tensors(self, weights)
        return weights

    def shown_name(self, name: str) -> str:
        """The name that the tensor has, or would have, in the user's files."""
        return name if self.header is None else own_name(str(self.header.metadata["general.architecture"]), name)


def check_checkpoint(path: Path) -> None:
    """Raise ConfigError naming the first mistake in a checkpoint.

    A checkpoint without weights passes, because a simulation needs none; `require_model` refuses it.
    """
    checkpoint = _open(path)
    tensors, family = checkpoint.tensors(), checkpoint.family
    if not checkpoint.shape.tied_embedding or tensors is None or family.LM_HEAD not in tensors:
        return
    head, table = tensors[family.LM_HEAD], tensors[family.prefix_of(tensors) + family.TOKENS]
    if not _same_bytes(head, table):
        raise ConfigError(
            f"{file_name(head.file)}: {head.own_name} differs from {table.own_name}, though {CONFIG} ties the two: say "
            '"tie_word_embeddings": false there'
        )


def read_shape(path: Path) -> ModelShape:
    """The shape of a checkpoint's model, with each role's weights in the format that the files have.

    Where the tensors of a role differ, it is the first format that holds them all without loss. A checkpoint without
    weights has the format that its config.json says. Raises ConfigError.
    """
    checkpoint = _open(path)
    tensors = checkpoint.tensors()
    if tensors is None:
        weights = WeightFormats.all_in(config_format(checkpoint.config))
    else:
        found = {role: lossless_format(formats) for role, formats in _formats(checkpoint, tensors).items()}
        if found.get("positions") not in PLAIN:  # a table of positions has no quantised format
            found["positions"] = "float32"
        weights = WeightFormats(**{"lm_head": found["tokens"]} | found)
    return replace(checkpoint.shape, weights=weights)


def read_family(path: Path) -> str:
    """The `model_type` of a checkpoint's model; raises ConfigError."""
    return str(_open(path).config["model_type"])


def model_files(path: Path) -> Path:
    """What a path means: itself, or the only GGUF file in a folder without safetensors; raises ConfigError."""
    return _gguf_file(path) or path


def find_model(path: Path) -> StoredModel | None:
    """What is needed to fill blocks from a checkpoint; None if it has no weights, or not all bytes of them."""
    checkpoint = _open(path)
    tensors = checkpoint.tensors()
    if tensors is None or (checkpoint.header and checkpoint.header.first_missing):
        return None
    prefix = checkpoint.family.prefix_of(tensors)
    return StoredModel(path, checkpoint.config["model_type"], prefix, tensors)


def require_model(path: Path) -> StoredModel:
    """What `find_model` finds; raises ConfigError for a checkpoint without weights."""
    model = find_model(path)
    if model is not None:
        return model
    header = _open(path).header
    if header is None:
        what = f"{path / SINGLE}: there is no such file, and no {SHARD_INDEX} either"
    else:
        what = (
            f"{file_name(header.file)}: the file is truncated: it has {header.size} bytes and ends before the last of "
            f"tensor {shown(header.first_missing)}"
        )
    raise ConfigError(f"{what}; without weights a model can only be simulated, by --backend sim")


def conversions(path: Path, shape: ModelShape) -> list[dict[str, Any]]:
    """How many matrices of a checkpoint have which format in its files (`stored`) and in memory (`held`)."""
    checkpoint = _open(path)
    tensors = checkpoint.tensors()
    found: Counter[tuple[str, str]] = Counter()
    for role, formats in (_formats(checkpoint, tensors) if tensors else {}).items():
        found.update((stored, getattr(shape.weights, role)) for stored in formats)
    return [{"stored": stored, "held": held, "tensors": count} for (stored, held), count in sorted(found.items())]


# --- opening -----------------------------------------------------------------------------------------------


def _open(path: Path) -> _Checkpoint:
    """The checkpoint at a path; raises ConfigError if there is none, or if its header or config is wrong."""
    file = _gguf_file(path)
    if file is not None:
        return _open_gguf(path, file)
    config = read_object(path / CONFIG, JSON_BYTES)
    shape = shape_from_config(config, path.name, str(path / CONFIG))
    if (path / ADAPTER).exists():
        raise ConfigError(f"{path / ADAPTER}: an adapter changes the weights: merge the two, and remove this file")
    return _Checkpoint(path, config, shape)


def _open_gguf(path: Path, file: Path) -> _Checkpoint:
    header = read_header(file)
    config = read_config(header)
    shape = shape_from_config(config, file.stem, f"{file_name(file)}, in the words of a config.json")
    factors = rope_factors(header, shape.head_dim // 2)
    if factors:
        if shape.rope is None or shape.rope.kind != "default":
            raise ConfigError(
                f"{file_name(file)}: has factors of RoPE in {ROPE_FACTORS}, and another rule for RoPE too"
            )
        shape = replace(shape, rope=replace(shape.rope, kind="factors", factors=factors))
    return _Checkpoint(path, config, shape, header)


def _gguf_file(path: Path) -> Path | None:
    """The GGUF file that a path means: itself, or the only one in a folder without safetensors."""
    try:
        if path.suffix == GGUF_SUFFIX and not path.is_dir():
            return path
        if not path.is_dir():
            raise ConfigError(
                f"{file_name(path)}: there is no such folder; model.path must be the folder of a Hugging Face "
                f"checkpoint, or a {GGUF_SUFFIX} file"
            )
        if (path / SINGLE).exists() or (path / SHARD_INDEX).exists():
            return None
        names = sorted(name for name in os.listdir(path) if name.endswith(GGUF_SUFFIX))
    except OSError as error:
        raise ConfigError(f"{file_name(path)}: the folder cannot be read: {error.strerror}") from error
    if len(names) > 1:
        raise ConfigError(
            f"{file_name(path)}: has {len(names)} {GGUF_SUFFIX} files, {shown(names[0])} among them: let model.path "
            "name one of them"
        )
    return path / names[0] if names else None


# --- formats -----------------------------------------------------------------------------------------------


def _formats(checkpoint: _Checkpoint, tensors: Mapping[str, StoredTensor]) -> dict[str, list[str]]:
    """For each role that the model has, the formats of its tensors in the files."""
    family, shape, found = checkpoint.family, checkpoint.shape, {}
    prefix = family.prefix_of(tensors)
    for role, (kind, name) in _ROLES.items():
        if name not in dict(tensors_of(shape, kind)):
            continue
        piece = piece_of(shape, WHOLE, kind, 0, name)
        layers = 1 if kind == "embed" else shape.layers
        names = {part.name for layer in range(layers) for part in family.locate(shape, piece, layer)}
        found[role] = [tensors[one if one == family.LM_HEAD else prefix + one].format for one in sorted(names)]
    return found


# --- checking ----------------------------------------------------------------------------------------------


def _check_tensors(checkpoint: _Checkpoint, tensors: Mapping[str, StoredTensor]) -> None:
    """Raise ConfigError for the first tensor that is missing, has another type or shape, or is not of this family."""
    family, shape = checkpoint.family, checkpoint.shape
    whose = CONFIG if checkpoint.header is None else "its metadata"
    for one in tensors.values():
        _check_type(checkpoint, one)
    prefix, lm_head, known = family.prefix_of(tensors), family.LM_HEAD, set()
    wanted = ((prefix + name, dims) for name, dims in family.tensors(shape))
    head = [(lm_head, (shape.vocab, shape.width))] if not shape.tied_embedding or lm_head in tensors else []
    for name, dims in itertools.chain(wanted, head):  # one by one, because a config may ask for millions
        if name not in tensors:
            other = next((other for other in tensors if other.endswith(f".{name.removeprefix(prefix)}")), None)
            hint = f"; {shown(other)} is not the name it has in a {family.TITLE}" if other else ""
            place = file_name(checkpoint.path)
            raise ConfigError(f"{place}: has no tensor {checkpoint.shown_name(name)!r}, which {whose} asks for{hint}")
        one = tensors[name]
        if one.dims != dims:
            found, asked = (list(sizes[::-1] if one.transposed else sizes) for sizes in (one.dims, dims))
            raise ConfigError(f"{tensor_name(one)} has shape {shown(found)}, but {whose} asks for {asked}")
        known.add(name)
    for name, one in tensors.items():
        if name not in known:
            raise ConfigError(f"{tensor_name(one)} is no part of the {family.TITLE} that {whose} describes")


def _check_type(checkpoint: _Checkpoint, one: StoredTensor) -> None:
    """Raise ConfigError for a type that is not read."""
    if one.format not in STORED_FORMATS:
        if checkpoint.header is None:
            known, hint = ", ".join(DTYPES), ": quantised weights must be turned back into one of these first"
        else:
            known, hint = ", ".join(STORED_FORMATS), ""
        raise ConfigError(f"{tensor_name(one)} is of type {one.format}, but it must be one of {known}{hint}")
    if len(one.dims) == 1 and STORED_FORMATS[one.format].block > 1:
        raise ConfigError(f"{tensor_name(one)} is of type {one.format}, which only a matrix can have")


def _same_bytes(one: StoredTensor, other: StoredTensor) -> bool:
    """Whether two tensors of the same shape are equal bit by bit."""
    if one.format != other.format:
        return False
    with open_file(one.file) as left, open_file(other.file) as right:
        left.seek(one.offset)
        right.seek(other.offset)
        for start in range(0, one.nbytes, _COMPARED_BYTES):
            size = min(one.nbytes - start, _COMPARED_BYTES)
            if left.read(size) != right.read(size):
                return False
    return True
