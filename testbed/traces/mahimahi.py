"""Mahimahi packet-delivery traces: each line is an opportunity to send one packet.

A line holds a time in whole milliseconds, which is not before the time of the line above. It stands for the delivery of
1500 bytes (mahimahi's packetshell counts 1504, with its tunnel header). A time that stands on several lines stands for
several packets in that millisecond. The trace loops with a period equal to its last line (source: mm-link(1)). If the
first line is more than an hour after 0, the times are those of a clock, and the trace begins at its first line.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from testbed.errors import ConfigError
from testbed.strict_yaml import shown
from testbed.traces.lines import file_error, line_error, option_number, trace_text
from testbed.traces.quantities import DIRECTIONS
from testbed.traces.recording import MOST_CHANGES, Recording, looping_link

if TYPE_CHECKING:
    import numpy as np

PACKET_BITS = 1500 * 8
LONGEST_STAMP = 15  # digits; a float holds every whole number of that length exactly
LONGEST_SILENCE_MS = 3_600_000  # before the first line of a trace whose times count from 0
_SPACES = re.compile(r"^[ \t]+|[ \t]+$", re.MULTILINE)
_WRONG = re.compile(rf"[^0-9\n]|\n\n|\A\n|[0-9]{{{LONGEST_STAMP + 1}}}")


def load(path: str | Path, *, target: str, direction: str, bin_s: float = 1.0) -> Recording:
    """A looping link trace with the mean rate of each window of `bin_s` seconds; raises ConfigError.

    Window k is [k * bin_s, (k + 1) * bin_s). The last window includes the lines at its end, so the mean rate of a lap
    is exactly that of the file. A remainder shorter than half a window joins the window before it. A window without
    a line is an outage.
    """
    path = Path(path)
    bin_s = option_number(bin_s, f"a window for {path} (bin)", least=1e-3)
    stamps = _opportunities(path)
    period_s = float(stamps[-1]) / 1000
    if period_s / bin_s * len(DIRECTIONS["both"]) > MOST_CHANGES:
        windows = f"{period_s:g} s in windows of {bin_s:g} s"
        raise file_error(path, f"the trace covers {windows}, and at most {MOST_CHANGES} changes are held: give a bin")
    return looping_link(path, target, direction, _rates(stamps, bin_s), period_s)


def _opportunities(path: Path) -> np.ndarray:
    """The times of all lines in whole milliseconds from the start of the trace."""
    import numpy as np

    text = trace_text(path)
    if " " in text or "\t" in text:
        text = _SPACES.sub("", text)
    text += "" if text.endswith("\n") else "\n"
    if (wrong := _WRONG.search(text)) is not None:
        raise _wrong_line(path, text, wrong.start())
    stamps = np.fromstring(text, dtype=np.int64, sep="\n")
    backwards = np.flatnonzero(np.diff(stamps) < 0)
    if len(backwards):
        at = int(backwards[0])
        raise line_error(path, at + 2, f"the time steps backwards from {stamps[at]} to {stamps[at + 1]} ms")
    if stamps[0] > LONGEST_SILENCE_MS:
        stamps -= stamps[0]
    if stamps[-1] == 0:
        raise line_error(path, len(stamps), "the last time is 0 ms: it is the period and must be above 0")
    return stamps


def _wrong_line(path: Path, text: str, place: int) -> ConfigError:
    """The error about the line at this place of the text, which does not hold whole milliseconds."""
    place += text[place] == "\n" and place > 0  # for an empty line, the place is the end of the line before
    begin = text.rfind("\n", 0, place) + 1
    number = text.count("\n", 0, begin) + 1
    line = text[begin : text.index("\n", begin)]
    if not line:
        return line_error(path, number, "the line is empty: remove it")
    return line_error(path, number, f"{shown(line)} is not a time: it must be whole milliseconds, like '120'")


def _rates(stamps: np.ndarray, bin_s: float) -> list[tuple[float, float]]:
    """The (start in seconds, bit/s) of each window."""
    import numpy as np

    period_s = float(stamps[-1]) / 1000
    whole = int(period_s / bin_s + 1e-9)
    windows = max(1, whole + (period_s - whole * bin_s >= bin_s / 2))
    edges = [k * bin_s for k in range(windows)] + [period_s]
    before = np.searchsorted(stamps, np.array(edges) * 1000 - 1e-6)  # lines before each edge
    before[0], before[-1] = 0, len(stamps)
    counts = np.diff(before).tolist()
    windows_and_counts = zip(pairwise(edges), counts, strict=True)
    return [(begin, count * PACKET_BITS / (end - begin)) for (begin, end), count in windows_and_counts]
