"""Network traces of the Sabre simulator (Spiteri et al., MMSys 2018): JSON, a list of periods one after the other.

    [{"duration_ms": 5000, "bandwidth_kbps": 1510, "latency_ms": 20}, ...]

Each period has its rate for its duration, and the list begins anew after the last. `latency_ms` is what a request takes
before its first byte and no property of a link, so it is left out: the topology says the link's delay.
"""

from __future__ import annotations

import json
from pathlib import Path

from testbed.strict_yaml import shown
from testbed.traces.lines import file_error, trace_text
from testbed.traces.model import Change, Trace
from testbed.traces.quantities import recorded_quantities

KEYS = ("duration_ms", "bandwidth_kbps")
LARGEST_JSON = 8 * 2**20  # bytes; a week in periods of 5 s
_MOST = 1e12  # milliseconds or kbit/s


def load(path: str | Path, *, target: str, direction: str) -> Trace:
    """A looping link trace from Sabre's JSON; ConfigError naming the file and the period."""
    path = Path(path)
    quantities = recorded_quantities(target, direction)
    changes, now = [], 0.0
    for number, period in enumerate(_periods(path), start=1):
        duration, rate = (_number(path, number, period, key) for key in KEYS)
        if duration > 0:
            changes += [Change(now / 1000, target, quantity, rate * 1000) for quantity in quantities]
        now += duration
    if not changes:
        raise file_error(path, "no period has a duration above 0: a looping trace needs one")
    return Trace(tuple(changes), end="loop", period=now / 1000, name=path.stem)


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
