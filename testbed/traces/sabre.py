"""Network traces of the Sabre simulator (Spiteri et al., MMSys 2018): JSON, a list of periods one after the other.

    [{"duration_ms": 5000, "bandwidth_kbps": 1510, "latency_ms": 20}, ...]

Each period gives a rate and its duration, and after the last period the list begins again. `latency_ms` is the time
that a request takes before its first byte. It is no property of a link, so we ignore it: the topology gives the delay.
"""

from __future__ import annotations

import json
from pathlib import Path

from testbed.strict_yaml import shown
from testbed.traces.lines import file_error, trace_text
from testbed.traces.recording import Recording, looping_link

KEYS = ("duration_ms", "bandwidth_kbps")
LARGEST_JSON = 8 * 2**20  # bytes; a week in periods of 5 s
_MOST = 1e12  # the largest duration in ms and rate in kbit/s


def load(path: str | Path, *, target: str, direction: str) -> Recording:
    """A looping link trace from Sabre's JSON; raises ConfigError naming the file and the period."""
    path = Path(path)
    steps, now = [], 0.0
    for number, period in enumerate(_periods(path), start=1):
        duration, rate = (_number(path, number, period, key) for key in KEYS)
        if duration > 0:
            steps.append((now / 1000, rate * 1000))
        now += duration
    if not steps:
        raise file_error(path, "no period has a duration above 0: a looping trace needs one")
    return looping_link(path, target, direction, steps, now / 1000)


def _periods(path: Path) -> list[object]:
    try:
        periods = json.loads(trace_text(path, LARGEST_JSON))
    except (ValueError, RecursionError) as error:
        raise file_error(path, f"the file is not JSON: {error}") from None
    if not isinstance(periods, list):
        raise file_error(path, f"a Sabre trace is a list of periods, not {shown(periods)}")
    return periods


def _number(path: Path, number: int, period: object, key: str) -> float:
    value = period.get(key) if isinstance(period, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST:
        problem = f"{key} is {shown(value)}" if isinstance(period, dict) else f"it is {shown(period)}"
        like = "it must be like {duration_ms: 5000, bandwidth_kbps: 1510}"
        raise file_error(path, f"period {number}: {problem}, but {like}")
    return float(value)
