"""Reads the header of a GGUF file: its metadata and the place of each tensor.

The format is that of ggml's docs/gguf.md, in versions 2 and 3. The library `gguf` reads it too, but takes seconds and
200 MB for a vocabulary (ADR 17); this reader passes over an array and remembers where it lies. Every count, length and
offset in a file is checked before anything of its size is read or made, so a hostile file costs no more than the
largest honest one. This module knows no model.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from testbed.decoder.stored import STORED_FORMATS, file_name, stored_bytes
from testbed.errors import ConfigError
from testbed.files import open_file
from testbed.strict_yaml import shown

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MOST_BYTES = 64 * 2**20  # of a header; Gemma's 262,144 words take 8 MB, and Llama 3's words and merges as much
_MOST_ENTRIES = 2**16  # metadata keys, or tensors; the largest public models have a few thousand tensors
_MOST_ELEMENTS = 2**21  # of an array in the metadata; Gemma 3 has half a million merges
_MOST_NAME_BYTES = 2**16 - 1  # of a key, by the format
_MOST_TEXT_BYTES = 1 << 20  # of a text that is kept; a longer one becomes an array of one text
_MOST_ALIGNMENT = 2**20
_MOST_DIMS = 4  # of a tensor, in ggml
_READ_BYTES = 1 << 20

_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")

# ggml's names of its types, for errors. Only those in STORED_FORMATS are read.
_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K",
    12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
    20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
    29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip
_FORMAT_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}

Scalar = str | int | float | bool


@dataclass(frozen=True)
class ArrayPlace:
    """Where an array of the metadata lies in the file."""

    kind: int  # the type of its elements, by the format's numbers
    count: int
    start: int
    end: int


@dataclass(frozen=True)
class TensorPlace:
    """A tensor as the header describes it."""

    format: str  # a key of STORED_FORMATS, or ggml's name of a type that is not read
    dims: tuple[int, ...]  # (out, in): the last one is contiguous, unlike in ggml's own order
    offset: int  # in the file
    nbytes: int  # 0 if the type is not read


@dataclass(frozen=True)
class GgufHeader:
    """The header of one GGUF file. An array of the metadata is read by `array`."""

    file: Path
    size: int  # of the file, in bytes
    metadata: Mapping[str, Scalar | ArrayPlace]
    tensors: Mapping[str, TensorPlace] = field(hash=False)

    def array(self, key: str) -> list[str] | list[int] | list[float] | list[bool]:
        """The elements of an array in the metadata; raises ConfigError if there is none, or if it is not text."""
        place = self.metadata.get(key)
        if not isinstance(place, ArrayPlace):
            raise ConfigError(f"{file_name(self.file)}: {key} is {shown(place)}, but it must be an array")
        with open_file(self.file) as file:
            file.seek(place.start)
            content = file.read(place.end - place.start)
        if len(content) < place.end - place.start:
            raise ConfigError(f"{file_name(self.file)}: the file has become shorter while it was read")
        if place.kind != _STRING:
            return list(struct.unpack(f"<{place.count}{_SCALARS[place.kind]}", content))
        found: list[str] = []
        unpack, length_bytes, at = _U64.unpack_from, _U64.size, 0
        try:
            for _ in range(place.count):
                start = at + length_bytes
                at = start + unpack(content, at)[0]
                found.append(content[start:at].decode())
        except UnicodeDecodeError as error:
            raise ConfigError(f"{file_name(self.file)}: {key}[{len(found)}] is not UTF-8 text") from error
        return found

    @property
    def first_missing(self) -> str | None:
        """The first tensor of which the file does not have all bytes; None if the file is whole."""
        missing = [(one.offset, name) for name, one in self.tensors.items() if one.offset + one.nbytes > self.size]
        return min(missing)[1] if missing else None


def read_header(path: Path) -> GgufHeader:
    """The header of a GGUF file; raises ConfigError naming the file, and the key or tensor that is wrong."""
    with open_file(path) as file:
        status = os.fstat(file.fileno())
    return _read_once(path, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=8)
def _read_once(path: Path, identity: tuple[int, ...]) -> GgufHeader:
    """The header of a file; `identity` changes with the file."""
    with open_file(path) as file:
        return _Reader(path, file).read()


class _Reader:
    """Reads a header from its beginning; `_at` is the next byte."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._content = bytearray()
        self._at = 0

    def read(self) -> GgufHeader:
        self._read_version()
        counts = [self._count("tensors"), self._count("metadata keys")]
        metadata: dict[str, Scalar | ArrayPlace] = {}
        for number in range(counts[1]):
            key = self._name(f"metadata key {number}")
            if key in metadata:
                raise self._wrong(f"has the metadata key {shown(key)} twice")
            metadata[key] = self._value(key)
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 1 <= alignment <= _MOST_ALIGNMENT or alignment & (alignment - 1):
            raise self._wrong(f"general.alignment is {shown(alignment)}, but it must be a power of two")
        tensors: dict[str, TensorPlace] = {}
        for number in range(counts[0]):
            name = self._name(f"the name of tensor {number}")
            if name in tensors:
                raise self._wrong(f"has the tensor {shown(name)} twice")
            tensors[name] = self._tensor(name, alignment)
        start = -(-self._at // alignment) * alignment
        placed = {
            name: TensorPlace(one.format, one.dims, start + one.offset, one.nbytes) for name, one in tensors.items()
        }
        self._refuse_overlaps(placed)
        return GgufHeader(self._path, self._size, metadata, placed)

    def _read_version(self) -> None:
        if bytes(self._take(len(MAGIC), "the first four bytes")) != MAGIC:
            raise self._wrong(f"this is not a GGUF file: it does not begin with {MAGIC.decode()}")
        raw = bytes(self._take(_U32.size, "the version"))
        if raw[:2] == b"\0\0":
            raise self._wrong("this GGUF file is big-endian; only little-endian files are read")
        (version,) = _U32.unpack(raw)
        if version not in _VERSIONS:
            known = " or ".join(map(str, _VERSIONS))
            raise self._wrong(f"this GGUF file is of version {version}, but it must be of version {known}")

    def _count(self, what: str) -> int:
        count = self._u64(f"the number of {what}")
        if count > _MOST_ENTRIES:
            raise self._wrong(f"has {count} {what}, and at most {_MOST_ENTRIES} are read")
        return count

    def _name(self, what: str) -> str:
        size = self._u64(what)
        if size > _MOST_NAME_BYTES:
            raise self._wrong(f"{what} has {size} bytes, and at most {_MOST_NAME_BYTES} are read")
        return self._text(size, what)

    def _value(self, key: str) -> Scalar | ArrayPlace:
        what = f"the value of {shown(key)}"
        kind = self._u32(what)
        if kind == _ARRAY:
            return self._array(what)
        if kind == _STRING:
            start, size = self._at, self._u64(what)
            if size <= _MOST_TEXT_BYTES:
                return self._text(size, what)
            self._pass(size, what)
            return ArrayPlace(_STRING, 1, start, self._at)
        if kind not in _SCALARS:
            raise self._wrong(f"{what} is of type {kind}, which the format does not have")
        layout = struct.Struct("<" + _SCALARS[kind])
        return layout.unpack(self._take(layout.size, what))[0]  # type: ignore[no-any-return]

    def _text(self, size: int, what: str) -> str:
        try:
            return self._take(size, what).decode()
        except UnicodeDecodeError as error:
            raise self._wrong(f"{what} is not UTF-8 text") from error

    def _array(self, what: str) -> ArrayPlace:
        kind, count = self._u32(what), self._u64(what)
        if count > _MOST_ELEMENTS:
            raise self._wrong(f"{what} has {count} elements, and at most {_MOST_ELEMENTS} are read")
        start = self._at
        if kind == _STRING:
            self._pass_strings(count, what)
        elif kind in _SCALARS:
            self._pass(count * struct.calcsize("<" + _SCALARS[kind]), what)
        else:
            raise self._wrong(f"{what} is an array of type {kind}; only arrays of numbers or text are read")
        return ArrayPlace(kind, count, start, self._at)

    def _pass_strings(self, count: int, what: str) -> None:
        """Pass over some strings; a vocabulary has a hundred thousand."""
        unpack, length_bytes = _U64.unpack_from, _U64.size
        for _ in range(count):
            if self._at + length_bytes > len(self._content):
                self._have(length_bytes, what)
            self._at += length_bytes + unpack(self._content, self._at)[0]
            if self._at > len(self._content):
                self._have(0, what)

    def _tensor(self, name: str, alignment: int) -> TensorPlace:
        """The next tensor; its offset is still relative to the data."""
        what = f"tensor {shown(name)}"
        number = self._u32(what)
        if not 1 <= number <= _MOST_DIMS:
            raise self._wrong(f"{what} has {number} dimensions, but it must have 1 to {_MOST_DIMS}")
        dims = tuple(reversed([self._u64(what) for _ in range(number)]))
        if 0 in dims:
            raise self._wrong(f"{what} has shape {list(dims)}, which is empty")
        kind, offset = self._u32(what), self._u64(what)
        if offset % alignment:
            raise self._wrong(f"{what} begins at {offset}, which is not a multiple of the alignment, {alignment}")
        ggml = _TYPES.get(kind, f"number {kind}")
        stored = _FORMAT_NAMES.get(ggml, ggml.lower())
        if stored not in STORED_FORMATS:
            return TensorPlace(ggml, dims, offset, 0)
        if dims[-1] % STORED_FORMATS[stored].block:
            raise self._wrong(
                f"{what} is of type {ggml} and has rows of {dims[-1]}, which is not a multiple of "
                f"{STORED_FORMATS[stored].block}"
            )
        return TensorPlace(stored, dims, offset, stored_bytes(stored, dims))

    def _refuse_overlaps(self, tensors: Mapping[str, TensorPlace]) -> None:
        end, before = 0, ""
        for name, one in sorted(tensors.items(), key=lambda item: item[1].offset):
            if one.offset < end:
                raise self._wrong(f"tensors {shown(before)} and {shown(name)} overlap")
            end, before = one.offset + one.nbytes, name

    # --- bytes -----------------------------------------------------------------------------------------

    def _u32(self, what: str) -> int:
        return int(_U32.unpack(self._take(_U32.size, what))[0])

    def _u64(self, what: str) -> int:
        return int(_U64.unpack(self._take(_U64.size, what))[0])

    def _take(self, size: int, what: str) -> bytearray:
        start = self._at
        self._pass(size, what)
        return self._content[start : self._at]

    def _pass(self, size: int, what: str) -> None:
        self._have(size, what)
        self._at += size

    def _have(self, size: int, what: str) -> None:
        """Read on until the next `size` bytes are here; raises ConfigError if the file or the limit ends before."""
        end = self._at + size
        if end > self._size:
            raise self._wrong(f"the file is truncated: it has {self._size} bytes and ends inside {what}")
        if end > _MOST_BYTES:
            raise self._wrong(f"the header is over {_MOST_BYTES} bytes, at {what}; no larger ones are read")
        while len(self._content) < end:
            more = self._file.read(_READ_BYTES)
            if not more:
                raise self._wrong(f"the file has become shorter while it was read, inside {what}")
            self._content += more

    def _wrong(self, reason: str) -> ConfigError:
        return ConfigError(f"{file_name(self._path)}: {reason}")
