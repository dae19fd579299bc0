"""Reads delimited text as rows of cells: it finds the delimiter and the header and skips lines that are no rows.

A table may have a byte-order mark, quotes, any line end, comments (`#`), empty lines, a `sep=` line, and a comma at the
end of each row. This module does not know what a column means.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed.progress import printable
from testbed.strict_yaml import shown
from testbed.traces.lines import file_error, line_error, lines_of, refuse_too_many, trace_text

DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|", "space": " "}
_MOST_SHOWN = 30  # the most names of columns in an error


@dataclass(frozen=True)
class Table:
    """A text with its header; without a header, columns are named by their number from 1."""

    path: Path
    text: str
    delimiter: str
    header: tuple[str, ...]
    header_line: int  # 0: the table has no header
    comments: tuple[tuple[int, str], ...]  # before the header

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield (line, cells) of each row after the header; raises ConfigError for a row of another width."""
        width = len(self.header)
        for line, cells in _records(self.path, self.text, self.delimiter):
            if line <= self.header_line:
                continue
            while len(cells) > width and not cells[-1]:
                cells.pop()
            if len(cells) != width:
                what = "the header has" if self.header_line else "the first row has"
                raise line_error(self.path, line, f"the row has {len(cells)} columns: {what} {width}")
            yield line, cells

    def column(self, name: str) -> int:
        """The index of a column, given by its name or number; case and a unit in brackets may differ."""
        for form in (str, str.casefold, _bare):
            found = [place for place, one in enumerate(self.header) if form(one) == form(name)]
            if len(found) == 1:
                return found[0]
            if found:
                raise line_error(self.path, self.header_line, f"the header has {len(found)} columns {shown(name)}")
        if name.isascii() and name.isdigit() and 1 <= int(name[:9]) <= len(self.header):
            return int(name) - 1
        raise line_error(
            self.path, self.header_line or 1, f"the header has no column {shown(name)}: it has {self.names()}"
        )

    def names(self) -> str:
        """The names of the columns, shortened for an error."""
        more = ", ..." if len(self.header) > _MOST_SHOWN else ""
        return ", ".join(printable(name)[:40] for name in self.header[:_MOST_SHOWN]) + more


def read(path: Path, delimiter: str | None = None) -> Table:
    """The table in a file; raises ConfigError if it has no rows or an unknown delimiter."""
    text = trace_text(path)
    refuse_too_many(path, text)
    return parse(path, text, delimiter)


def parse(path: Path, text: str, delimiter: str | None = None) -> Table:
    """The table in a text; errors name the path."""
    if delimiter is not None:
        given = DELIMITERS.get(delimiter, delimiter) if isinstance(delimiter, str) else ""
        if given not in DELIMITERS.values():
            raise file_error(path, f"the delimiter {shown(delimiter)} is none of {', '.join(DELIMITERS)}")
        delimiter = given
    comments = []
    for number, raw in enumerate(lines_of(text), start=1):
        line = raw.strip()
        if line.startswith("#"):
            comments.append((number, line))
        elif number == 1 and raw.lstrip().casefold() in (f"sep={sign}" for sign in DELIMITERS.values()):
            delimiter = delimiter or raw.lstrip()[4]
        elif line:
            break
    else:
        raise file_error(path, "the file has no rows: it must have at least a header and one row")
    delimiter = delimiter or _delimiter(raw)
    line_number, header = next(_records(path, text, delimiter), (number, [""]))
    while len(header) > 1 and not header[-1]:
        header.pop()
    if all(_is_number(cell) for cell in header):  # there is no header, or it is a comment
        last = _split(comments[-1][1].lstrip("# "), delimiter) if comments else []
        named = len(last) == len(header) and not any(_is_number(cell) for cell in last)
        names = last if named else [str(place + 1) for place in range(len(header))]
        return Table(path, text, delimiter, tuple(names), 0, tuple(comments))
    return Table(path, text, delimiter, tuple(header), line_number, tuple(comments))


def _records(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, stripped cells) of every row, including the header."""
    if delimiter == " ":
        for number, line in enumerate(lines_of(text), start=1):
            if line.strip() and not line.lstrip().startswith("#"):
                yield number, line.split()
        return
    lines = (f"{line}\n" for line in lines_of(text))
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        for cells in reader:
            begin = cells[0].lstrip() if cells else ""
            if begin.startswith("#") or (reader.line_num == 1 and begin[:4].casefold() == "sep=" and len(begin) < 6):
                continue
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                yield reader.line_num, stripped
    except csv.Error as error:
        raise line_error(path, reader.line_num, f"the line is not CSV: check its quotes ({error})") from None


def _delimiter(line: str) -> str:
    """The delimiter that splits this line into most cells; a space only if no other delimiter splits it."""
    counts = {sign: len(_split(line, sign)) for sign in DELIMITERS.values() if sign != " "}
    best = max(counts, key=lambda sign: counts[sign])
    return best if counts[best] > 1 else " " if len(line.split()) > 1 else ","


def _split(line: str, delimiter: str) -> list[str]:
    if delimiter == " ":
        return line.split()
    try:
        cells = next(csv.reader([line.strip("\r\n")], delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error:
        return [line]
    return [cell.strip() for cell in cells]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _bare(name: str) -> str:
    """A column's name without case and without a unit in brackets."""
    return name.partition("(")[0].partition("[")[0].strip().casefold()


def same_names(header: Sequence[str], names: Sequence[str]) -> bool:
    """Whether a header contains all of these names, in any case."""
    return {name.casefold() for name in names} <= {name.casefold() for name in header}
