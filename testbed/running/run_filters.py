"""Chooses and sorts rows of `list_runs`: by name patterns, by status, and by when runs were made."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

from testbed.errors import ConfigError
from testbed.strict_yaml import suggest

Row = Mapping[str, Any]

PATTERNS = ("experiment", "policy", "backend", "model", "status")
SORT_KEYS = {
    "created": "created", "name": "name", "experiment": "experiment", "policy": "policy", "status": "status",
    "mean": "mean_token_ms", "migrations": "migrations", "tokens": "tokens", "size": "size_bytes",
}  # fmt: skip
"""What `--sort` takes -> the key of a row."""

AGES_S = {"s": 1, "min": 60, "h": 3600, "d": 86_400, "day": 86_400, "days": 86_400, "w": 604_800, "weeks": 604_800}
_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)")
_STAMP = re.compile(r"(\d{8}T\d{6}Z)-")  # at the beginning of a run folder's name
_STAMP_FORMAT = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class Wanted:
    """Which runs are wanted. Patterns are those of a shell (`gpt2*`); one of several is enough."""

    experiment: Sequence[str] = ()
    policy: Sequence[str] = ()
    backend: Sequence[str] = ()
    model: Sequence[str] = ()
    status: Sequence[str] = ()
    since: float | None = None  # Unix time
    before: float | None = None

    @property
    def everything(self) -> bool:
        """Whether nothing is asked for."""
        return self == Wanted()

    def choose(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the rows that are wanted; raises ConfigError for a pattern that fits none."""
        for key in PATTERNS:
            values = sorted({str(row.get(key)) for row in rows})
            for pattern in getattr(self, key):
                if rows and not any(fnmatchcase(value, pattern) for value in values):
                    raise ConfigError(
                        f"--{key} {pattern}: none of the {len(rows)} runs has that{suggest(pattern, values)}"
                    )
        return [row for row in rows if self._fits(row)]

    def _fits(self, row: Row) -> bool:
        for key in PATTERNS:
            patterns = getattr(self, key)
            if patterns and not any(fnmatchcase(str(row.get(key)), pattern) for pattern in patterns):
                return False
        if self.since is None and self.before is None:
            return True
        made = made_at(row)
        if made is None:
            return False
        return (self.since is None or made >= self.since) and (self.before is None or made < self.before)


def made_at(row: Row) -> float | None:
    """Return the Unix time at which a run was made, from its manifest or its name; None if neither says it."""
    try:
        return datetime.fromisoformat(str(row.get("created"))).timestamp()
    except ValueError:
        stamp = _STAMP.match(str(row["name"]).rpartition("/")[2])
    if stamp is None:
        return None
    return datetime.strptime(stamp[1], _STAMP_FORMAT).replace(tzinfo=UTC).timestamp()


def parse_moment(text: str, option: str, now: float | None = None) -> float:
    """Return the Unix time of a date (`2026-11-29`, `2026-11-29T20:00`, local time) or an age (`3 h`, `2 days`).

    Raises ConfigError naming the option.
    """
    age = _AGE.fullmatch(text.strip())
    if age is not None and age[2] in AGES_S:
        return (time.time() if now is None else now) - float(age[1]) * AGES_S[age[2]]
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except ValueError:
        raise ConfigError(
            f"{option} {text!r} is neither a date like 2026-11-29 or 2026-11-29T20:00 nor an age like '3 h' or '2 days'"
        ) from None


def sort_runs(rows: Sequence[dict[str, Any]], key: str, largest_first: bool = False) -> list[dict[str, Any]]:
    """Return rows sorted by one of `SORT_KEYS`; rows without a value come last."""
    name = SORT_KEYS[key]
    values: dict[int, Any] = {id(row): made_at(row) if key == "created" else row.get(name) for row in rows}
    known = sorted((row for row in rows if values[id(row)] is not None), key=lambda row: values[id(row)],
                   reverse=largest_first)  # fmt: skip
    return [*known, *(row for row in rows if values[id(row)] is None)]


def newest_of_each(rows: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Return the `count` newest runs of each experiment, policy, backend and model."""
    kept: list[dict[str, Any]] = []
    groups: dict[tuple[Any, ...], int] = {}
    # Of runs that were made in the same second, the later one has the later name, and comes later in `rows`.
    for row in sort_runs(rows[::-1], "created", largest_first=True):
        group = tuple(row.get(key) for key in ("experiment", "policy", "backend", "model"))
        groups[group] = groups.get(group, 0) + 1
        if groups[group] <= count:
            kept.append(row)
    return kept
