"""Fills blocks with the weights of a checkpoint, whatever its files are and in whatever format they have its tensors.

A part of a tensor is read a few rows at a time, put into the block's own format, and written into its memory. So there
is never a second whole copy, and a device reads only what it holds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from testbed.decoder.convert import convert
from testbed.decoder.families import FAMILIES
from testbed.decoder.kernels import Packed
from testbed.decoder.pieces import Part, piece_of
from testbed.decoder.stored import STORED_FORMATS, StoredModel, StoredTensor, stored_bytes, tensor_name
from testbed.decoder.widen import Bytes, has_non_numbers, widen
from testbed.errors import ConfigError
from testbed.files import open_file
from testbed.formats import packed_bytes
from testbed.placement.blocks import WHOLE, Partition
from testbed.shape import ModelShape

_COPY_BYTES = 1 << 18  # at a time, because a device's memory limit has no room for a second copy of a tensor
_READ_BYTES = 1 << 20  # at a time; a call for each piece of a row would take ten times as long
_BLOCK = 32  # columns that become one block
_FOLIO = 2 * 2**20  # the largest unit of the page cache, which keeps those that it is asked to drop in part


class StoredWeights:
    """The weights of one checkpoint."""

    def __init__(self, model: StoredModel, shape: ModelShape, partition: Partition = WHOLE) -> None:
        self.model = model
        self.shape = shape
        self.partition = partition
        self._family = FAMILIES[model.family]

    def fill(self, kind: str, layer: int, index: int, tensors: dict[str, Packed]) -> None:
        """Fill in place; raises ConfigError naming the file and the tensor for values that are no numbers."""
        for name, target in tensors.items():
            piece = piece_of(self.shape, self.partition, kind, index, name)
            vector = len(piece.dims) == 1  # is one row in memory, and one element a row in parts
            rows = target.data.reshape(target.columns if vector else target.rows, -1)
            start = 0
            for part in self._family.locate(self.shape, piece, layer):
                end = start + part.rows.stop - part.rows.start
                fill_rows(rows[start:end], target.format, self._stored(part.name), part)
                start = end

    def _stored(self, name: str) -> StoredTensor:
        return self.model.tensors[name if name == self._family.LM_HEAD else self.model.prefix + name]


def fill_rows(rows: Bytes, held: str, stored: StoredTensor, part: Part) -> None:
    """Fill rows (rows, bytes) in a format with a part of a stored tensor; raises ConfigError naming the tensor."""
    fill = _fill_straight if part.transposed == stored.transposed else _fill_transposed
    with open_file(stored.file) as file:
        reader = _Reader(file.fileno(), stored)
        try:
            fill(rows, held, part, reader)
        finally:
            reader.forget()


def _fill_straight(rows: Bytes, held: str, part: Part, reader: _Reader) -> None:
    """The file has the part's rows as rows."""
    stored, low, high = reader.stored, part.columns.start, part.columns.stop
    block = STORED_FORMATS[stored.format].block
    first, last = low // block * block, min(reader.columns, -(-high // block) * block)  # whole blocks
    for target, source in _runs(rows, part.rows, stored, min(reader.most_rows, _COPY_BYTES // (4 * (last - first)))):
        form, raw = stored.format, reader.read(source, slice(first, last))
        _refuse_non_numbers(stored, raw)
        if (first, last) != (low, high):
            form, raw = "float32", np.ascontiguousarray(widen(form, raw)[:, low - first : high - first]).view(np.uint8)
        _write(target, held, form, raw, stored)


def _fill_transposed(rows: Bytes, held: str, part: Part, reader: _Reader) -> None:
    """The file has the part's columns as rows; some of these, all rows of each, make blocks of columns."""
    stored, outs, ins = reader.stored, len(rows), part.columns
    step = max(1, min(reader.most_rows, _COPY_BYTES // (4 * outs)) // _BLOCK) * _BLOCK
    for start in range(ins.start, ins.stop, step):
        end = min(ins.stop, start + step)
        raw = reader.read(slice(start, end), part.rows)
        _refuse_non_numbers(stored, raw)
        values = np.ascontiguousarray(widen(stored.format, raw).T).view(np.uint8)
        first, last = (packed_bytes(held, 1, at - ins.start) for at in (start, end))
        _write(rows[:, first:last], held, "float32", values, stored)


def _runs(rows: Bytes, part: slice, stored: StoredTensor, most: int) -> Iterator[tuple[Bytes, slice]]:
    """The rows to fill, up to `most` at a time, and the rows of the file for them.

    llama.cpp's RoPE turns neighbours. So it stores the rows of a head's first and second half in turn, and the rows of
    a half are every second one of the file.
    """
    start = part.start
    head = stored.dims[0] // stored.permuted_heads if stored.permuted_heads else 0
    while start < part.stop:
        end = min(part.stop, start + max(1, most))
        source = slice(start, end, 1)
        if head:
            half, row = divmod(start % head, head // 2)
            end = min(end, start + head // 2 - row)
            first = start // head * head + 2 * row + half
            source = slice(first, first + 2 * (end - start) - 1, 2)
        yield rows[start - part.start : end - part.start], source
        start = end


class _Reader:
    """Reads parts of a tensor from its open file, in whole rows; other threads run meanwhile.

    The pages read leave the page cache soon afterwards, because a device would pay for them.
    """

    def __init__(self, descriptor: int, stored: StoredTensor) -> None:
        self.stored = stored
        one = len(stored.dims) == 1  # a vector has one element a row
        self.columns = 1 if one else stored.dims[0] if stored.transposed else stored.dims[1]
        self._descriptor = descriptor
        self._row_bytes = stored_bytes(stored.format, (self.columns,))
        self.most_rows = _READ_BYTES // self._row_bytes
        self._cached: slice | None = None  # what has been read and not dropped from the page cache, in whole folios
        if os.fstat(descriptor).st_size < stored.offset + stored.nbytes:
            raise self._shorter()

    def read(self, rows: slice, columns: slice) -> Bytes:
        """Some columns, which are whole blocks, of some rows, as the file has them: (rows, bytes)."""
        size, at = (rows.stop - rows.start) * self._row_bytes, self.stored.offset + rows.start * self._row_bytes
        content = os.pread(self._descriptor, size, at)
        if len(content) < size:
            raise self._shorter()
        self._note(at, at + size)
        first, last = (stored_bytes(self.stored.format, (column,)) for column in (columns.start, columns.stop))
        return np.frombuffer(content, np.uint8).reshape(-1, self._row_bytes)[:: rows.step, first:last]

    def _note(self, start: int, end: int) -> None:
        """Note what has been read, and drop the folios before it."""
        cached = slice(start // _FOLIO * _FOLIO, -(-end // _FOLIO) * _FOLIO)
        if self._cached is not None and self._cached.start < cached.start:
            self._drop(self._cached.start, cached.start)
        self._cached = cached

    def forget(self) -> None:
        """Drop what has been read last, and what the kernel has read ahead."""
        if self._cached is not None:
            self._drop(self._cached.start, self._cached.stop + 2 * _FOLIO)

    def _drop(self, start: int, end: int) -> None:
        os.posix_fadvise(self._descriptor, start, end - start, os.POSIX_FADV_DONTNEED)

    def _shorter(self) -> ConfigError:
        return ConfigError(f"{tensor_name(self.stored)} is not all there: the file has become shorter")


def _refuse_non_numbers(stored: StoredTensor, rows: Bytes) -> None:
    if has_non_numbers(stored.format, rows):
        raise ConfigError(f"{tensor_name(stored)} has values that are not numbers: infinite, or NaN")


def _write(target: Bytes, held: str, form: str, rows: Bytes, stored: StoredTensor) -> None:
    """Write rows in some format into memory that has another; raises ConfigError if that cannot hold them."""
    try:
        target[:] = convert(form, held, rows)
    except OverflowError as error:
        raise ConfigError(f"{tensor_name(stored)} has values that are too large for {held}: {error}") from error
