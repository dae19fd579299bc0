"""Fills blocks with the weights of a checkpoint, whatever its files are and in whatever format they have its tensors.

A part of a tensor is read a few rows at a time, put into the block's own format, and written into its memory. So there
is never a second whole copy, and a device reads only what it holds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from testbed.decoder.convert import convert
from testbed.decoder.families import FAMILIES
from testbed.decoder.kernels import Packed
from testbed.decoder.pieces import Part, piece_of
from testbed.decoder.stored import STORED_FORMATS, StoredModel, StoredTensor, file_name, stored_bytes, tensor_name
from testbed.decoder.widen import Bytes, has_non_numbers, widen
from testbed.errors import ConfigError
from testbed.formats import packed_bytes
from testbed.placement.blocks import PAGE_BYTES, WHOLE, Partition
from testbed.shape import ModelShape

_COPY_BYTES = 1 << 18  # at a time, because a device's memory limit has no room for a second copy of a tensor
_SPAN = 8  # columns are cut out of whole rows if these are not longer than so many times what is wanted of them
_BLOCK = 32  # columns that become one block


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
    """Fill rows (rows, bytes) in a format with a part of a stored tensor."""
    straight = part.transposed == stored.transposed
    with _opened(stored, part.rows if straight else part.columns) as descriptor:
        (_fill_straight if straight else _fill_transposed)(rows, held, stored, part, descriptor)


def _fill_straight(rows: Bytes, held: str, stored: StoredTensor, part: Part, descriptor: int) -> None:
    """The file has the part's rows as rows."""
    block = STORED_FORMATS[stored.format].block
    low, high = part.columns.start, part.columns.stop
    first, last = low // block * block, min(_file_columns(stored), -(-high // block) * block)  # whole blocks
    for target, source in _runs(rows, part.rows, stored, _rows_at_once(stored, last - first)):
        form, raw = stored.format, _read_rows(descriptor, stored, source, first, last)
        _refuse_non_numbers(stored, form, raw)
        if (first, last) != (low, high):
            form, raw = "float32", np.ascontiguousarray(widen(form, raw)[:, low - first : high - first]).view(np.uint8)
        _write(target, held, form, raw, stored)


def _fill_transposed(rows: Bytes, held: str, stored: StoredTensor, part: Part, descriptor: int) -> None:
    """The file has the part's columns as rows; some of these, all rows of each, make blocks of columns."""
    outs, ins = len(rows), part.columns
    step = max(1, _rows_at_once(stored, outs) // _BLOCK) * _BLOCK
    for start in range(ins.start, ins.stop, step):
        end = min(ins.stop, start + step)
        raw = _read_rows(descriptor, stored, range(start, end), part.rows.start, part.rows.stop)
        _refuse_non_numbers(stored, stored.format, raw)
        values = np.ascontiguousarray(widen(stored.format, raw).T).view(np.uint8)
        first, last = (packed_bytes(held, 1, at - ins.start) for at in (start, end))
        _write(rows[:, first:last], held, "float32", values, stored)


def _runs(rows: Bytes, part: slice, stored: StoredTensor, most: int) -> Iterator[tuple[Bytes, range]]:
    """The rows to fill, up to `most` at a time, and the rows of the file for them.

    llama.cpp's RoPE turns neighbours. So it stores the rows of a head's first and second half in turn, and the rows of
    a half are every second one of the file.
    """
    start = part.start
    head = stored.dims[0] // stored.permuted_heads if stored.permuted_heads else 0
    while start < part.stop:
        end = min(part.stop, start + most)
        source = range(start, end)
        if head:
            half, row = divmod(start % head, head // 2)
            end = min(end, start + head // 2 - row)
            first = start // head * head + 2 * row + half
            source = range(first, first + 2 * (end - start), 2)
        yield rows[start - part.start : end - part.start], source
        start = end


# --- reading -------------------------------------------------------------------------------------------------


def _rows_at_once(stored: StoredTensor, columns: int) -> int:
    """The number of the file's rows to read at a time, for some columns of them."""
    size, step = stored_bytes(stored.format, (columns,)), 2 if stored.permuted_heads else 1
    return max(1, _COPY_BYTES // max(4 * columns, min(_row_bytes(stored) * step, _SPAN * size)))


def _read_rows(descriptor: int, stored: StoredTensor, rows: range, first: int, last: int) -> Bytes:
    """Some columns, which are whole blocks, of some rows as the file has them: (rows, bytes)."""
    start, size = (stored_bytes(stored.format, (columns,)) for columns in (first, last - first))
    stride = _row_bytes(stored) * rows.step
    at = stored.offset + rows.start * _row_bytes(stored) + start
    if stride <= _SPAN * size:  # a read costs more than copying the bytes in between
        span = _read(descriptor, stored, at, stride * (len(rows) - 1) + size)
        wanted = np.lib.stride_tricks.as_strided(span, (len(rows), size), (stride, 1), writeable=False)
        return np.ascontiguousarray(wanted)
    return np.stack([_read(descriptor, stored, at + stride * row, size) for row in range(len(rows))])


def _read(descriptor: int, stored: StoredTensor, offset: int, size: int) -> Bytes:
    content = os.pread(descriptor, size, offset)
    if len(content) < size:
        raise ConfigError(f"{tensor_name(stored)} is not all there: the file has become shorter")
    return np.frombuffer(content, np.uint8)


@contextmanager
def _opened(stored: StoredTensor, rows: slice) -> Iterator[int]:
    """The tensor's file; afterwards the pages with these rows leave the page cache, for which a device would pay."""
    try:
        descriptor = os.open(stored.file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"{file_name(stored.file)}: the file cannot be read: {error.strerror}") from error
    start, end = (stored.offset + row * _row_bytes(stored) for row in (rows.start, rows.stop))
    start = start // PAGE_BYTES * PAGE_BYTES
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)  # or the kernel reads on past the part
        yield descriptor
    except OSError as error:
        raise ConfigError(f"{file_name(stored.file)}: the file cannot be read: {error.strerror}") from error
    finally:
        os.posix_fadvise(descriptor, start, -(-end // PAGE_BYTES) * PAGE_BYTES - start, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _row_bytes(stored: StoredTensor) -> int:
    return stored_bytes(stored.format, (_file_columns(stored),))


def _file_columns(stored: StoredTensor) -> int:
    """The length of the tensor's rows in the file; a vector has one element a row."""
    if len(stored.dims) == 1:
        return 1
    return stored.dims[0] if stored.transposed else stored.dims[1]


def _refuse_non_numbers(stored: StoredTensor, form: str, rows: Bytes) -> None:
    if has_non_numbers(form, rows):
        raise ConfigError(f"{tensor_name(stored)} has values that are not numbers: infinite, or NaN")


def _write(target: Bytes, held: str, form: str, rows: Bytes, stored: StoredTensor) -> None:
    """Write rows in some format into memory that has another; raises ConfigError if that cannot hold them."""
    try:
        target[:] = convert(form, held, rows)
    except OverflowError as error:
        raise ConfigError(f"{tensor_name(stored)} has values that are too large for {held}: {error}") from error
