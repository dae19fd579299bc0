"""Seeded trace generators: pure functions of their parameters and a seed.

Times are seconds or tokens, whichever the experiment's trace clock counts. Every trace starts with a row at 0, which
gives the value before anything happens, and ends by `hold`. `jitter` is the most by which the seed moves an event
forwards or backwards; with a jitter of 0, the seed changes nothing. Generators call only `random.Random.random`, for
which Python promises the same numbers in every version.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from testbed import units
from testbed.errors import ConfigError
from testbed.strict_yaml import shown
from testbed.traces.lines import option_number, parse_number
from testbed.traces.model import Trace
from testbed.traces.quantities import recorded_quantities
from testbed.traces.recording import Change

MOST_GENERATED = 100_000
"""The most steps of a generated trace; a run of a thousand tokens, or of hours, has fewer."""

MBIT = 1e6
MIB = 2**20

# The rates of a phone on LTE from the edge of a cell to its centre, as in the public LTE and 5G drive tests.
CELLULAR_STATES_BPS = (2 * MBIT, 8 * MBIT, 20 * MBIT, 40 * MBIT, 75 * MBIT)


def cellular_walk(
    target: str,
    *,
    states_bps: Sequence[float] = CELLULAR_STATES_BPS,
    stay: float = 0.4,
    spread: float = 0.15,
    length: float = 96,
    step: float = 8,
    direction: str = "both",
    seed: int = 0,
) -> Trace:
    """A Markov-modulated link rate: every `step`, it stays in its state or moves to a neighbouring one.

    The rate of a step is that of its state, changed by at most the share `spread`. The walk stays in its state with the
    probability `stay`; else a higher and a lower state are equally likely (the first and last have one neighbour).
    """
    if not states_bps or step <= 0 or length <= 0:
        raise ConfigError("a cellular walk needs at least one state, and a step and a length above 0")
    if length / step > MOST_GENERATED:
        raise ConfigError(f"a cellular walk of {length:g} in steps of {step:g} has over {MOST_GENERATED} steps")
    if not 0 <= stay <= 1 or not 0 <= spread < 1:
        raise ConfigError(f"stay {stay:g} and spread {spread:g} of a cellular walk must be shares of one")
    random = Random(seed)
    rows = []
    state = len(states_bps) // 2
    count = 0
    while count * step < length:
        rate = states_bps[state] * (1 + spread * (2 * random.random() - 1))
        rows.append((count * step, float(f"{rate:.3g}")))
        if random.random() >= stay:
            move = 1 if random.random() < 0.5 else -1
            if not 0 <= state + move < len(states_bps):
                move = -move
            state = min(max(state + move, 0), len(states_bps) - 1)
        count += 1
    return _link_trace("cellular-walk", target, direction, rows)


def link_collapse(
    target: str,
    *,
    rate_bps: float = 100 * MBIT,
    fraction: float = 0.2,
    at: float = 40,
    recover_at: float | None = None,
    recover_fraction: float = 1.0,
    direction: str = "both",
    jitter: float = 0.0,
    seed: int = 0,
) -> Trace:
    """A link's rate falls to a fraction at `at`, and changes to another fraction at `recover_at` if that is given."""
    start = _moment(Random(seed), at, jitter)
    rows = [(0.0, rate_bps), (start, rate_bps * fraction)]
    if recover_at is not None:
        if recover_at <= at:
            raise ConfigError(f"a link that collapses at {at:g} cannot recover at {recover_at:g}: it must be later")
        rows.append((_after(start, recover_at - at), rate_bps * recover_fraction))
    return _link_trace("link-collapse", target, direction, rows)


def outage(
    target: str,
    *,
    rate_bps: float = 50 * MBIT,
    at: float = 30,
    duration: float = 3,
    direction: str = "both",
    jitter: float = 0.0,
    seed: int = 0,
) -> Trace:
    """A link carries nothing for a while and then has its old rate again."""
    start = _moment(Random(seed), at, jitter)
    return _link_trace("outage", target, direction, _episode(rate_bps, 0.0, start, duration))


def memory_squeeze(
    target: str,
    *,
    memory_bytes: float = 256 * MIB,
    taken_bytes: float = 128 * MIB,
    at: float = 48,
    duration: float | None = None,
    jitter: float = 0.0,
    seed: int = 0,
) -> Trace:
    """A co-located app takes memory at `at`, for `duration` or for good."""
    if taken_bytes > memory_bytes:
        have = units.format_bytes(memory_bytes)
        raise ConfigError(
            f"an app cannot take {units.format_bytes(taken_bytes)} of {have}: it must be at most all of it"
        )
    start = _moment(Random(seed), at, jitter)
    rows = _episode(memory_bytes, memory_bytes - taken_bytes, start, duration)
    return Trace(tuple(Change(time, target, "memory", value) for time, value in rows), name="memory-squeeze")


def cpu_contention(
    target: str,
    *,
    compute_flops: float = 12e9,
    streaming_Bps: float = 3e9,
    share: float = 0.4,
    at: float = 32,
    duration: float | None = 32,
    jitter: float = 0.0,
    seed: int = 0,
) -> Trace:
    """A co-located app leaves only a share of the device's compute and streaming rates for a while."""
    if not 0 < share <= 1:
        raise ConfigError(
            f"a share of {share:g} under CPU contention is not possible: it must be above 0 and at most 1"
        )
    start = _moment(Random(seed), at, jitter)
    changes = [
        Change(time, target, quantity, value)
        for quantity, full in (("compute", compute_flops), ("streaming", streaming_Bps))
        for time, value in _episode(full, full * share, start, duration)
    ]
    return Trace(tuple(changes), name="cpu-contention")


GENERATORS: Mapping[str, Callable[..., Trace]] = {
    "cellular-walk": cellular_walk,
    "cpu-contention": cpu_contention,
    "link-collapse": link_collapse,
    "memory-squeeze": memory_squeeze,
    "outage": outage,
}


def generate(kind: str, target: str, seed: int = 0, options: Mapping[str, object] | None = None) -> Trace:
    """Run a generator by name, with options as a user writes them; raises ConfigError naming the option.

    Options with a unit are text: `generate("outage", "link/b", 7, {"rate": "50 Mbit/s", "at": 30})`. The unit suffix of
    a parameter can be left out (`rate` for `rate_bps`).
    """
    if kind not in GENERATORS:
        raise ConfigError(f"{shown(kind)} is not a trace generator: there are {', '.join(GENERATORS)}")
    known = {_short(name): name for name in option_names(kind)}
    values: dict[str, Any] = {}
    for option, value in (options or {}).items():
        name = known.get(_short(option))
        if name is None:
            raise ConfigError(f"generator {kind} has no option {shown(option)}: it has {', '.join(known)}")
        try:
            values[name] = _parse_option(name, value)
        except ConfigError as error:
            raise ConfigError(f"generator {kind}, option {option}: {error}") from None
    return GENERATORS[kind](target, seed=seed, **values)


def option_names(kind: str) -> list[str]:
    """The parameters of a generator in order, without its target and seed."""
    parameters = inspect.signature(GENERATORS[kind]).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "seed"]


_PARSERS: Mapping[str, Callable[[object], float]] = {
    "_bps": units.parse_rate,
    "_Bps": units.parse_bandwidth,
    "_bytes": units.parse_bytes,
    "_flops": units.parse_compute,
}
_SHARES = ("share", "fraction", "recover_fraction", "stay", "spread")


def _short(name: str) -> str:
    for suffix in _PARSERS:
        name = name.removesuffix(suffix)
    return name


def _parse_option(name: str, value: object) -> Any:
    parse = next((parse for suffix, parse in _PARSERS.items() if name.endswith(suffix)), None)
    if name == "states_bps":
        return [units.parse_rate(part) for part in (value.split(",") if isinstance(value, str) else _listed(value))]
    if parse is not None:
        return parse(value)
    if name == "direction":
        return str(value)
    if name in _SHARES:
        return units.parse_fraction(value)
    return option_number(parse_number(value, "time") if isinstance(value, str) else value, "a time", least=0.0)


def _listed(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else [value]


def _moment(random: Random, at: float, jitter: float) -> float:
    """The time `at`, moved by at most `jitter` forwards or backwards, but not before 0."""
    return max(0.0, round(at + jitter * (2 * random.random() - 1), 3))


def _after(start: float, duration: float) -> float:
    return round(start + duration, 3)


def _episode(normal: float, during: float, start: float, duration: float | None) -> list[tuple[float, float]]:
    """The (time, value) rows of one episode, which ends after `duration`, or never if that is None."""
    rows = [(0.0, normal), (start, during)]
    if duration is not None:
        if duration <= 0:
            raise ConfigError(f"a duration of {duration:g} is not possible: it must be above 0")
        rows.append((_after(start, duration), normal))
    return rows


def _link_trace(name: str, target: str, direction: str, rows: Sequence[tuple[float, float]]) -> Trace:
    quantities = recorded_quantities(target, direction)
    return Trace(
        tuple(Change(time, target, quantity, rate) for time, rate in rows for quantity in quantities), name=name
    )
