"""What a model asks of devices: its blocks and their bytes in each format, and which boards of the catalogue hold it.

All bytes and operations come from `testbed.placement.blocks`, from which policies and workers take them too. Nothing is
loaded: a config.json or the header of a GGUF file is enough.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from testbed.decoder.checkpoint import check_checkpoint, conversions, find_model, read_family, read_shape
from testbed.decoder.config_json import CONFIG
from testbed.errors import ConfigError
from testbed.experiment.instances import model_need
from testbed.formats import FORMATS, PLAIN
from testbed.models.presets import PRESETS, Preset, packaged_shape, presets
from testbed.placement.blocks import (
    MOST_BLOCKS,
    WHOLE,
    block_flops,
    block_read_bytes,
    blocks_of,
    count_blocks,
    embed_read_bytes,
    lm_head_flops,
    lm_head_read_bytes,
    pinned_bytes,
    state_bytes,
    tensors_of,
    weight_bytes,
)
from testbed.shape import ModelShape, WeightFormats
from testbed.strict_yaml import shown, suggest
from testbed.topologies.catalogue import boards
from testbed.units import parse_bytes

USUAL_LENGTH = 512
"""The sequence length for which a model is shown, if it has so many positions and nothing else is said."""

DEFAULT = "default"
EMBED = "embed"
_MOST_BOARDS = 64  # of one kind that are tried
_SHARED = frozenset({"norm_weight", "norm_bias", "q_norm", "k_norm"})  # of a layer; each of its heads has a copy


@dataclass(frozen=True)
class _Model:
    """A model by whatever it was named."""

    shape: ModelShape  # with the formats that it has in a run that asks for none
    family: str
    weights: str | None  # where they are
    path: Path | None  # the folder or file, if there is one
    preset: Preset | None = None


def list_models() -> list[dict[str, Any]]:
    """Return a row for each preset: its dimensions, and the bytes of its weights in each format."""
    return [
        {"name": name, "family": preset.family, "repository": preset.repository, **_dimensions(PRESETS[name])}
        | {"bytes": {format: total_bytes(shape) for format, shape in in_formats(PRESETS[name]).items()}}
        for name, preset in presets().items()
    ]


def show_model(model: str | Path, *, length: int | None = None, kv_format: str = "float32") -> dict[str, Any]:
    """Return what a model asks of devices at a sequence length.

    `model` is a preset, a folder with a config.json, or a GGUF file. Keys end in their units. Counts of bytes have a
    value for each format, and one as `default` for a run that asks for no format, if that is not float32 throughout.
    `formats` says which formats the files have. Raises ConfigError for a name or a file that is no model, and for a
    length that the model does not support.

    Example: `show_model("llama-3.2-1b")["bytes"]["q4_0"]`
    """
    found = _find(str(model))
    shape = replace(found.shape, kv_format=kv_format)
    blocks = count_blocks(shape)
    if blocks > MOST_BLOCKS:
        raise ConfigError(
            f"{model}: the model would be cut into {blocks} blocks, but at most {MOST_BLOCKS} can be placed"
        )
    length = min(USUAL_LENGTH, shape.positions) if length is None else length
    if not 1 <= length <= shape.positions:
        raise ConfigError(f"--length {length}: {shape.name} has {shape.positions} positions")
    own = {} if shape.weights == WeightFormats() else {DEFAULT: shape}
    shapes = own | in_formats(shape)
    return {
        "name": shape.name,
        "family": found.family,
        "repository": found.preset.repository if found.preset else None,
        "weights": found.weights,
        "formats": [] if found.path is None else conversions(found.path, shape),
        **_dimensions(shape),
        "blocks": _block_rows(shape, shapes),
        "bytes": {name: total_bytes(one) for name, one in shapes.items()},
        "kv_bytes_per_token": {name: kv_bytes_per_token(replace(shape, kv_format=name)) for name in PLAIN},
        "length": length,
        "kv_format": kv_format,
        "flops_per_token": flops_per_token(shape, length),
        "read_bytes_per_token": {name: read_bytes_per_token(one, length) for name, one in shapes.items()},
        "boards": _board_rows(shapes, length),
    }


def find_shape(model: str | Path) -> ModelShape:
    """Return the shape of a preset, of a folder with a config.json or of that file, or of a GGUF file."""
    return _find(str(model)).shape


def parameters(shape: ModelShape) -> int:
    """Return the number of parameters; a norm that each head of a layer has a copy of counts once a layer."""
    count = _elements(shape, EMBED)
    for kind, blocks in _counts(shape).items():
        shared = sum(_size(dims) for name, dims in tensors_of(shape, kind) if name in _SHARED)
        copies = blocks // shape.layers - 1
        count += blocks * _elements(shape, kind) - shape.layers * copies * shared
    return count


def total_bytes(shape: ModelShape) -> int:
    """Return the bytes that all devices together hold of the weights, in whole pages."""
    return pinned_bytes(shape) + sum(count * weight_bytes(shape, kind) for kind, count in _counts(shape).items())


def kv_bytes_per_token(shape: ModelShape) -> int:
    """Return the bytes by which all KV caches together grow with each token."""
    return sum(state_bytes(shape, block, 1) for block in blocks_of(shape))


def flops_per_token(shape: ModelShape, length: int) -> float:
    """Return the FLOPs of the token that makes the sequence so long."""
    return lm_head_flops(shape) + sum(block_flops(shape, block, length) for block in blocks_of(shape))


def read_bytes_per_token(shape: ModelShape, length: int) -> float:
    """Return the bytes of weights and KV caches that are read for the token that makes the sequence so long."""
    read = sum(block_read_bytes(shape, block, length) for block in blocks_of(shape))
    return embed_read_bytes(shape) + lm_head_read_bytes(shape) + read


def in_formats(shape: ModelShape) -> dict[str, ModelShape]:
    """Return the shape with all its matrices in one format, for each format whose blocks divide its rows."""
    found = {name: replace(shape, weights=WeightFormats.all_in(name)) for name in FORMATS}
    columns = {dims[-1] for kind in (*_counts(shape), EMBED) for _, dims in tensors_of(shape, kind) if len(dims) > 1}
    return {name: one for name, one in found.items() if all(not count % FORMATS[name].block for count in columns)}


def _dimensions(shape: ModelShape) -> dict[str, Any]:
    return {
        "layers": shape.layers, "width": shape.width, "heads": shape.heads, "kv_heads": shape.kv_heads,
        "head_dim": shape.head_dim, "ffn_width": shape.ffn_width, "vocab": shape.vocab, "context": shape.positions,
        "window": shape.window, "tied_embedding": shape.tied_embedding, "parameters": parameters(shape),
    }  # fmt: skip


def _block_rows(shape: ModelShape, shapes: Mapping[str, ModelShape]) -> list[dict[str, Any]]:
    """Return a row for each kind of block: how many there are, and the bytes of one in each format."""
    rows = [(kind, count) for kind, count in _counts(shape).items()] + [(EMBED, 1)]
    return [
        {
            "kind": kind,
            "count": count,
            "parameters": _elements(shape, kind),
            "bytes": {name: weight_bytes(one, kind) for name, one in shapes.items()},
        }
        for kind, count in rows
    ]


def _board_rows(shapes: Mapping[str, ModelShape], length: int) -> list[dict[str, Any]]:
    """Return a row for each board of the catalogue: how many of them hold the model; None if not even many do."""
    rows = []
    for name, board in boards().items():
        memory = parse_bytes(board.values["memory"])
        needed = {format: boards_needed(shape, length, memory) for format, shape in shapes.items()}
        rows.append({"board": name, "memory_bytes": memory, "needed": needed})
    return rows


def boards_needed(shape: ModelShape, length: int, memory: int) -> int | None:
    """Return how many boards with this memory hold the model and its caches at this length, whole blocks on each."""
    need = model_need(shape, WHOLE, length)
    if need.pinned_bytes > memory:
        return None
    fewest = max(1, -(-(need.pinned_bytes + need.blocks_bytes) // memory))
    tried = range(fewest, max(fewest, _MOST_BOARDS) + 1)
    return next((count for count in tried if need.fits([memory - need.pinned_bytes, *[memory] * (count - 1)])), None)


def _find(model: str) -> _Model:
    """Return the model that a path or a preset's name means; raises ConfigError if there is neither."""
    if os.path.lexists(model):
        return _read(model_folder(Path(model)))
    if model not in PRESETS:
        kinds = "neither a preset nor a folder with a config.json nor a GGUF file"
        raise ConfigError(f"{shown(model)} is {kinds}{suggest(model, PRESETS)}")
    preset = presets()[model]
    packaged = preset.packaged
    path = packaged.find() if packaged else None
    where = f"in the Python package {packaged.package}, which is not installed" if packaged else None
    return _Model(packaged_shape(model), preset.family, where if path is None else str(path), path, preset)


def model_folder(path: Path) -> Path:
    """Return the folder of a config.json; any other path stays."""
    return path.parent if path.name == CONFIG and not path.is_dir() else path


def _read(path: Path) -> _Model:
    """Return the model in a folder or a GGUF file; raises ConfigError for a damaged one."""
    check_checkpoint(path)
    return _Model(read_shape(path), read_family(path), str(path) if find_model(path) else None, path)


def _counts(shape: ModelShape) -> Counter[str]:
    """Return how many blocks there are of each kind."""
    return Counter(block.kind for block in blocks_of(shape))


def _elements(shape: ModelShape, kind: str) -> int:
    return sum(_size(dims) for _, dims in tensors_of(shape, kind))


def _size(dims: tuple[int, ...]) -> int:
    size = 1
    for dim in dims:
        size *= dim
    return size
