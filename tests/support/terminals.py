"""What a terminal would show of what is written to it."""

from __future__ import annotations

import io
import re

STEP = re.compile(r"\x1b\[(\??\d*)([A-Za-z])|(\r\n|\n|\r)|([^\x1b\r\n]+)")


class Terminal(io.StringIO):
    """A file that says that it is a terminal."""

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        """The lines that would be on a terminal of endless height."""
        return screen(self.getvalue())


def screen(written: str) -> list[str]:
    """The lines that a terminal of endless height would show of text with the control sequences of progress bars."""
    lines, row, column = [""], 0, 0
    for count, command, end, text in STEP.findall(written):
        if text:
            lines[row] = lines[row][:column].ljust(column) + text + lines[row][column + len(text) :]
            column += len(text)
        elif end:
            column = 0
            if "\n" in end:
                row += 1
                lines += [""] * (row == len(lines))
        elif command == "A":
            row -= int(count or 1)
        elif command == "K":
            lines[row] = ""
    return [line.rstrip() for line in lines]
