"""How a migrating block's payload is cut into chunks, and the sizes that bound what is in flight.

Without the decoder, so that a dry run can count with these sizes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

CHUNK_BYTES = 64 * 1024  # a chunk's payload, and the payload of a probe's frame
FIRST_CHUNK_BYTES = 1024  # one TCP segment, so that its receipt marks the first byte
WINDOW_BYTES = 1024 * 1024  # a sender has at most so many bytes unacknowledged at each receiver


def checksum(piece: memoryview | bytes) -> int:
    """CRC-32 of a chunk. TCP's own checksum does not cover our copies into and out of memory maps."""
    return zlib.crc32(piece)


def cut(parts: list[memoryview]) -> Iterator[tuple[int, memoryview]]:
    """(offset, piece) of each chunk of the concatenated parts; a piece never spans two parts."""
    offset = 0
    for part in parts:
        start = 0
        while start < len(part):
            size = FIRST_CHUNK_BYTES if offset == 0 else CHUNK_BYTES
            piece = part[start : start + size]
            yield offset, piece
            start += len(piece)
            offset += len(piece)


def write(parts: list[memoryview], offset: int, payload: memoryview | bytes) -> None:
    """Put a piece at this offset of the concatenated parts; it never spans two of them."""
    for part in parts:
        if offset < len(part):
            part[offset : offset + len(payload)] = payload
            return
        offset -= len(part)
