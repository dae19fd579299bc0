"""Fills blocks with the weights of a checkpoint, whatever its files are and in whatever format they have its tensors.

A part of a tensor is taken a few rows at a time from its mapped file, put into the block's own format, and written into
its memory. So there is never a second whole copy, and a device reads only what it holds.
"""

from __future__ import annotations

import mmap
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
_BLOCK = 32  # columns that become one block
_PAGE = mmap.ALLOCATIONGRANULARITY


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
    start, end = stored.offset // _PAGE * _PAGE, -(-(stored.offset + stored.nbytes) // _PAGE) * _PAGE
    with open_file(stored.file) as file:
        try:
            fill(rows, held, stored, part, _mapped(file.fileno(), stored))
        finally:  # nothing maps the pages any more, and they leave the page cache, where a device would pay for them
            os.posix_fadvise(file.fileno(), start, end - start, os.POSIX_FADV_DONTNEED)


def _fill_straight(rows: Bytes, held: str, stored: StoredTensor, part: Part, tensor: Bytes) -> None:
    """The file has the part's rows as rows."""
    block, width = STORED_FORMATS[stored.format].block, _file_columns(stored)
    low, high = part.columns.start, part.columns.stop
    first, last = low // block * block, min(width, -(-high // block) * block)  # whole blocks
    some = slice(stored_bytes(stored.format, (first,)), stored_bytes(stored.format, (last,)))
    for target, source in _runs(rows, part.rows, stored, max(1, _COPY_BYTES // (4 * (last - first)))):
        form, raw = stored.format, tensor[source, some]
        _refuse_non_numbers(stored, raw)
        if (first, last) != (low, high):
            form, raw = "float32", np.ascontiguousarray(widen(form, raw)[:, low - first : high - first]).view(np.uint8)
        _write(target, held, form, raw, stored)


def _fill_transposed(rows: Bytes, held: str, stored: StoredTensor, part: Part, tensor: Bytes) -> None:
    """The file has the part's columns as rows; some of these, all rows of each, make blocks of columns."""
    outs, ins = len(rows), part.columns
    some = slice(stored_bytes(stored.format, (part.rows.start,)), stored_bytes(stored.format, (part.rows.stop,)))
    step = max(1, _COPY_BYTES // (4 * outs * _BLOCK)) * _BLOCK
    for start in range(ins.start, ins.stop, step):
        end = min(ins.stop, start + step)
        raw = tensor[start:end, some]
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
        end = min(part.stop, start + most)
        source = slice(start, end)
        if head:
            half, row = divmod(start % head, head // 2)
            end = min(end, start + head // 2 - row)
            first = start // head * head + 2 * row + half
            source = slice(first, first + 2 * (end - start), 2)
        yield rows[start - part.start : end - part.start], source
        start = end


def _mapped(descriptor: int, stored: StoredTensor) -> Bytes:
    """A tensor's rows (rows, bytes) in its file, which stays mapped as long as they are used."""
    end = stored.offset + stored.nbytes
    if os.fstat(descriptor).st_size < end:  # reading what is not there would end the process
        raise ConfigError(f"{tensor_name(stored)} is not all there: the file has become shorter")
    start = stored.offset // _PAGE * _PAGE
    pages = mmap.mmap(descriptor, end - start, access=mmap.ACCESS_READ, offset=start)
    rows = np.frombuffer(pages, np.uint8, stored.nbytes, stored.offset - start)
    return rows.reshape(-1, stored_bytes(stored.format, (_file_columns(stored),)))


def _file_columns(stored: StoredTensor) -> int:
    """The length of the tensor's rows in the file; a vector has one element a row."""
    if len(stored.dims) == 1:
        return 1
    return stored.dims[0] if stored.transposed else stored.dims[1]


def _refuse_non_numbers(stored: StoredTensor, rows: Bytes) -> None:
    if has_non_numbers(stored.format, rows):
        raise ConfigError(f"{tensor_name(stored)} has values that are not numbers: infinite, or NaN")


def _write(target: Bytes, held: str, form: str, rows: Bytes, stored: StoredTensor) -> None:
    """Write rows in some format into memory that has another; raises ConfigError if that cannot hold them."""
    try:
        target[:] = convert(form, held, rows)
    except OverflowError as error:
        raise ConfigError(f"{tensor_name(stored)} has values that are too large for {held}: {error}") from error
