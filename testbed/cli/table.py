"""Lays out a table as lines of text: on a terminal in its width, in a pipe as wide as it is.

A name or a number is never broken, so it can be copied. A table that is too wide first breaks its headings at spaces,
then wraps sentences. After that, few rows are turned, each into a list of its values, and many rows are divided into
tables below each other, which all begin with the columns that tell rows apart.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

GAP = "  "
FEW_ROWS = 3  # up to so many are turned
SENTENCE_FROM = 30  # characters of a cell that may be wrapped
LEAST_SENTENCE = 24  # columns for a sentence


@dataclass(frozen=True)
class Column:
    """A heading and the cells below it."""

    heading: str
    cells: Sequence[str]
    numeric: bool = False  # aligned to the right

    @property
    def width(self) -> int:
        """The columns that the cells and the words of the heading need at least."""
        return max(map(width_of, [*self.heading.split(" "), *self.cells]), default=0)

    @property
    def sentences(self) -> bool:
        """Whether cells may be wrapped at spaces."""
        return any(len(cell) >= SENTENCE_FROM and cell.count(" ") >= 3 for cell in self.cells)


@dataclass(frozen=True)
class Block:
    """Lines that belong together, below those with their headings; a turned row has no such lines."""

    headings: list[str]
    lines: list[str]


def lay_out(columns: Sequence[Column], width: int | None, keys: int = 1) -> list[Block]:
    """The blocks of a table, of which the first `keys` columns tell rows apart.

    `width` is that of the terminal, or None if lines may be of any length.
    """
    whole = [max(column.width, width_of(column.heading)) for column in columns]
    if width is None or _total(whole) <= width:
        return [_block(columns, whole)]
    least = [column.width for column in columns]
    if _total(least) <= width:
        return [_block(columns, least)]
    sizes = _with_sentences_wrapped(columns, width)
    if sizes is not None:
        return [_block(columns, sizes)]
    if len(columns[0].cells) <= FEW_ROWS:
        return _turned(columns, width)
    parts = _divided(columns, width, keys if _total(least[:keys]) <= width // 2 else 1)
    return [_block(part, _with_sentences_wrapped(part, width) or [column.width for column in part]) for part in parts]


def _with_sentences_wrapped(columns: Sequence[Column], width: int) -> list[int] | None:
    """The sizes of columns of which those with sentences share what the others leave; None if that is too little."""
    least = [column.width for column in columns]
    rest = width - _total([0 if column.sentences else size for column, size in zip(columns, least, strict=True)])
    prose = sum(column.sentences for column in columns)
    if not prose or rest // prose < LEAST_SENTENCE:
        return None
    return [min(size, rest // prose) if column.sentences else size for column, size in zip(columns, least, strict=True)]


def width_of(text: str) -> int:
    """The columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _total(sizes: Sequence[int]) -> int:
    return sum(sizes) + len(GAP) * (len(sizes) - 1)


def _block(columns: Sequence[Column], sizes: Sequence[int]) -> Block:
    headings = [_wrapped(column.heading, size) for column, size in zip(columns, sizes, strict=True)]
    tall = max(map(len, headings))
    # A heading of one line stands directly above its cells.
    above = _lines([[""] * (tall - len(heading)) + heading for heading in headings], columns, sizes)
    lines: list[str] = []
    for row in range(len(columns[0].cells)):
        cells = [
            _wrapped(column.cells[row], size) if column.sentences else [column.cells[row]]
            for column, size in zip(columns, sizes, strict=True)
        ]
        lines += _lines(cells, columns, sizes)
    return Block(above, lines)


def _lines(cells: Sequence[Sequence[str]], columns: Sequence[Column], sizes: Sequence[int]) -> list[str]:
    """One row, each of whose cells has some lines."""
    found = []
    for number in range(max(map(len, cells))):
        texts = [cell[number] if number < len(cell) else "" for cell in cells]
        padded = [
            " " * (size - width_of(text)) + text if column.numeric else text + " " * (size - width_of(text))
            for text, column, size in zip(texts, columns, sizes, strict=True)
        ]
        found.append(GAP.join(padded).rstrip())
    return found


def _wrapped(text: str, size: int) -> list[str]:
    return textwrap.wrap(text, max(1, size), break_long_words=False, break_on_hyphens=False) or [""]


def _turned(columns: Sequence[Column], width: int) -> list[Block]:
    """A block for each row, with a line for each of its values."""
    size = max(width_of(column.heading) for column in columns)
    blocks = []
    for row in range(len(columns[0].cells)):
        lines = []
        for column in columns:
            cell = _wrapped(column.cells[row], max(LEAST_SENTENCE, width - size - len(GAP)))
            for number, line in enumerate(cell):
                heading = column.heading if number == 0 else ""
                lines.append(f"{heading}{' ' * (size - width_of(heading))}{GAP}{line}".rstrip())
        blocks.append(Block([], lines))
    return blocks


def _divided(columns: Sequence[Column], width: int, keys: int) -> list[list[Column]]:
    """The columns in parts that fit, each with the first `keys` columns in front."""
    first = list(columns[:keys])
    parts = [first.copy()]
    for column in columns[keys:]:
        if len(parts[-1]) > keys and _total([one.width for one in [*parts[-1], column]]) > width:
            parts.append(first.copy())
        parts[-1].append(column)
    return parts
