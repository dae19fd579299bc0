"""Tensors as they lie in a checkpoint's files, whichever the format of the files.

The main process finds the tensors once, before a run. Workers are given this description and read the files at the
offsets in it, so that they need no reader of headers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from testbed.formats import FORMATS, Format
from testbed.strict_yaml import shown

# Formats that are read and widened, but not held. Sizes: ggml's ggml-common.h.
_ONLY_STORED = (
    Format("float64", 1, 8),
    Format("q5_0", 32, 22),
    Format("q5_1", 32, 24),
    Format("iq4_nl", 32, 18),
    Format("q2_k", 256, 84),
    Format("q3_k", 256, 110),
    Format("q4_k", 256, 144),
    Format("q5_k", 256, 176),
    Format("q6_k", 256, 210),
)
STORED_FORMATS: Mapping[str, Format] = {**FORMATS, **{one.name: one for one in _ONLY_STORED}}
"""Every format that a checkpoint's tensors may have, by its name."""

# The formats that hold all values of a stored one, except for float32, which holds all but those of float64.
_LOSSLESS: Mapping[str, tuple[str, ...]] = {
    "float16": ("float16",),
    "bfloat16": ("bfloat16",),
    "q4_1": ("q4_1",),
    "q8_0": ("q8_0",),
    "q4_0": ("q4_0", "q4_1", "q8_0"),
    "q5_0": ("q8_0",),
    "iq4_nl": ("q8_0",),
}
_PREFERRED = ("q4_0", "float16", "bfloat16", "q4_1", "q8_0")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, under the name that it has in a Hugging Face checkpoint."""

    file: Path
    format: str  # a key of STORED_FORMATS, or the file's own word for a type that is not read
    dims: tuple[int, ...]  # those that it has in a Hugging Face checkpoint
    offset: int  # of its first byte in the file
    nbytes: int
    own_name: str  # in the file
    permuted_heads: int = 0  # over 0: in each of so many heads, rows of the first and the second half alternate
    transposed: bool = False  # the file has the columns of `dims` as rows, and blocks run along the first dimension


@dataclass(frozen=True)
class StoredModel:
    """All that is needed to fill blocks from a checkpoint: a family, and where its tensors are."""

    origin: Path  # the folder or file that the user named
    family: str  # `model_type` of a config.json
    prefix: str  # of the tensors' names, except for the LM head
    tensors: Mapping[str, StoredTensor] = field(hash=False, repr=False)


def stored_bytes(stored_format: str, dims: tuple[int, ...]) -> int:
    """The bytes of a tensor whose rows are whole blocks."""
    one = STORED_FORMATS[stored_format]
    return math.prod(dims) // one.block * one.block_bytes


def lossless_format(stored: Iterable[str]) -> str:
    """The first format that holds all values of tensors in these formats; float32 if no smaller one does."""
    formats = set(stored)
    holding = (one for one in _PREFERRED if formats and all(one in _LOSSLESS.get(each, ()) for each in formats))
    return next(holding, "float32")


def file_name(path: Path) -> str:
    """A path as an error shows it: control characters are escaped, and a very long path is cut."""
    text = str(path)
    return text if text.isprintable() and len(text) <= 300 else shown(text)


def tensor_name(one: StoredTensor) -> str:
    """A tensor as an error names it: with its file."""
    return f"{file_name(one.file)}: tensor {shown(one.own_name)}"
