"""Which links of a run were not as asked: from how far the messages of each path were off, and from counted losses.

Most paths share their links with others. A link is given what the least conspicuous of its paths shows, so a wrong link
does not make those around it wrong. A path that its links then do not explain, as where the errors of two links
cancel on the path that crosses both, is put down to the link that most such paths share. Nothing here keeps a state.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from testbed.units import format_duration

LOW, HIGH = 0.1, 0.9  # the shares of messages between which a spread is taken; the host has not delayed the lowest
PARTS = 4  # of a run, of which each is judged by itself, so that a link is right from the first to the last
LEAST_MESSAGES = 20  # of a part of a path; fewer are not judged
LEAST_SHAKEN = 100  # of a part of a path with jitter, whose middle is to be known
LINK_DELAY_TOLERANCE_S = 0.5e-3  # by which the delay of one direction of a link may be off,
DELAY_FLOORS = 2  # or so many times as late as the host ends a paced operation,
DELAY_TOLERANCE = 0.2  # or this share of what is asked,
JITTER_TOLERANCE = 0.5  # or this share of its jitter, which may itself be off by so much
JUDGED_JITTER_S = 1e-3  # less is lost in the host's own
BY_CHANCE = 1e-5  # a count of losses that is less probable than that is not what was asked


class Asked(NamedTuple):
    """One direction of a link, and what was asked of it for some time."""

    link: str
    direction: str
    delay_s: float
    jitter_s: float
    loss: float


Path = tuple[Asked, ...]


@dataclass(frozen=True)
class Counted:
    """What a queue has counted: frames, at least so many decisions to lose something or not, and what was lost."""

    frames: int = 0
    decisions: float = 0.0
    lost: int = 0

    def __add__(self, other: Counted) -> Counted:
        return Counted(self.frames + other.frames, self.decisions + other.decisions, self.lost + other.lost)

    def as_asked(self, loss: float) -> bool:
        """Whether so much may have been lost by chance."""
        few = poisson_tail(self.lost, loss * self.decisions, below=True)
        many = poisson_tail(self.lost, loss * self.frames, below=False)
        return min(few, many) >= BY_CHANCE


class _Shown(NamedTuple):
    """What the messages of a path show."""

    ordered: Sequence[float]  # how far each was off
    wrong_s: float  # how far the path is off, in the part of the run where it is farthest
    spread_s: float  # between the shares LOW and HIGH, in the part where it is least


def tolerance_s(asked_s: float, least_s: float, jitter_s: float = 0.0) -> float:
    """How far a delay may be off from what is asked, where the host may be late by `least_s`."""
    return max(LINK_DELAY_TOLERANCE_S, least_s, DELAY_TOLERANCE * asked_s, JITTER_TOLERANCE * jitter_s)


def link_rows(
    off: Mapping[Path, Sequence[float]], lost: Mapping[Asked, Counted], least_s: float
) -> list[dict[str, Any]]:
    """A row of the table `delays` for each direction of a link that enough messages or losses tell of."""
    seen = {path: shown for path, found in off.items() if (shown := _shown(path, found)) is not None}
    paths: dict[Asked, list[Path]] = defaultdict(list)
    for path in seen:
        for each in {each for each in path if each.jitter_s} or {*path}:  # beside jitter, another link shows nothing
            paths[each].append(path)
    errors = _errors(paths, {path: shown.wrong_s for path, shown in seen.items()}, least_s)
    wrong_s = {each: error_s for each, error_s in errors.items() if not _right(each, error_s, least_s)}
    rows = []
    for each in sorted({*paths, *lost}):
        row: dict[str, Any] = {
            "device": each.link, "direction": each.direction, "asked_s": each.delay_s, "messages": 0,
            "asked_jitter_s": each.jitter_s, "asked_loss": each.loss,
        }  # fmt: skip
        if each in paths:
            row |= _distribution(each, paths[each], seen, wrong_s)
            row["farthest_s"] = each.delay_s + errors[each]
        if each in lost:
            counts = lost[each]
            row |= {"frames": counts.frames, "lost": counts.lost, "loss_as_asked": counts.as_asked(each.loss)}
        rows.append(row)
    return rows


def _shown(path: Path, found: Sequence[float]) -> _Shown | None:
    shaken = any(each.jitter_s for each in path)
    least = LEAST_SHAKEN if shaken else LEAST_MESSAGES
    if len(found) < least:
        return None
    count = min(PARTS, len(found) // least)
    parts = [sorted(found[len(found) * n // count : len(found) * (n + 1) // count]) for n in range(count)]
    wrong_s = max((_at(part, 0.5 if shaken else LOW) for part in parts), key=abs)
    return _Shown(sorted(found), wrong_s, min(_at(part, HIGH) - _at(part, LOW) for part in parts))


def _errors(paths: Mapping[Asked, Sequence[Path]], wrong_s: Mapping[Path, float], least_s: float) -> dict[Asked, float]:
    """How far each direction of a link is off."""
    found = {each: min((wrong_s[path] / path.count(each) for path in own), key=abs) for each, own in paths.items()}
    errors = {each: error_s - _explained_s(each, paths, found) for each, error_s in found.items()}
    missed = {}
    for path, wrong in wrong_s.items():
        left_s = wrong - sum(errors.get(each, 0.0) for each in path)
        if abs(left_s) > tolerance_s(sum(each.delay_s for each in path), least_s, sum(each.jitter_s for each in path)):
            missed[path] = left_s
    votes = Counter((each, left_s > 0) for path, left_s in missed.items() for each in {*path} if each in errors)
    blamed: dict[Asked, list[float]] = defaultdict(list)
    for path, left_s in missed.items():
        most = max(votes[each, left_s > 0] for each in path)
        for each in {each for each in path if votes[each, left_s > 0] == most}:
            blamed[each].append(left_s / path.count(each))
    return errors | {each: errors[each] + min(left, key=abs) for each, left in blamed.items()}


def _explained_s(each: Asked, paths: Mapping[Asked, Sequence[Path]], found: Mapping[Asked, float]) -> float:
    """What another link adds that all paths of this one cross: one that is as far off, and has more paths."""
    own = {*paths[each]}
    others = [found[other] for other, more in paths.items() if own < {*more}]
    explained_s = max(others, key=abs, default=0.0)
    return explained_s if explained_s * found[each] > 0 and abs(explained_s) >= abs(found[each]) / 2 else 0.0


def _right(each: Asked, error_s: float, least_s: float) -> bool:
    return abs(error_s) <= tolerance_s(each.delay_s, least_s, each.jitter_s)


def _distribution(
    each: Asked, own: Sequence[Path], seen: Mapping[Path, _Shown], wrong_s: Mapping[Asked, float]
) -> dict[str, Any]:
    """The delays of one direction of a link, from the path that shows it best, without what wrong links add there."""

    def others_s(path: Path) -> float:
        return sum(wrong_s.get(other, 0.0) for other in path if other != each)

    best = min(
        own, key=lambda path: abs(seen[path].wrong_s - others_s(path) - path.count(each) * wrong_s.get(each, 0.0))
    )
    ordered, turns = seen[best].ordered, best.count(each)
    delays_s = [each.delay_s + (_at(ordered, share) - others_s(best)) / turns for share in (LOW, 0.5, HIGH)]
    spreads = [seen[path].spread_s * (each.jitter_s / sum(of.jitter_s for of in path) if each.jitter_s else 1.0)
               for path in own]  # fmt: skip
    return {
        "p10_s": delays_s[0], "p50_s": delays_s[1], "p90_s": delays_s[2], "messages": len(ordered),
        "jitter_s": min(spreads) / (2 * (HIGH - LOW)),
    }  # fmt: skip


def wrong_links(rows: Sequence[Mapping[str, Any]], least_s: float) -> list[str]:
    """The directions of links whose own delay, jitter or loss is not what was asked, one sentence each."""
    found = []
    for row in rows:
        link, asked_s, jitter_s = f"link {row['device']} {row['direction']}", row["asked_s"], row["asked_jitter_s"]
        least, most = (1 - JITTER_TOLERANCE) * jitter_s, (1 + JITTER_TOLERANCE) * jitter_s + least_s
        if row["messages"] and jitter_s >= JUDGED_JITTER_S and not least <= row["jitter_s"] <= most:
            found.append(
                f"{link}: delays vary by {format_duration(row['jitter_s'])} where a jitter of "
                f"{format_duration(jitter_s)} is asked"
            )
        elif row["messages"] and abs(row["farthest_s"] - asked_s) > tolerance_s(asked_s, least_s, jitter_s):
            found.append(
                f"{link}: messages met a delay of {format_duration(max(0.0, row['farthest_s']))} where "
                f"{format_duration(asked_s)} is asked"
            )
        if row.get("loss_as_asked") is False:
            found.append(
                f"{link}: {row['lost']} of {row['frames']} frames were lost where a loss of "
                f"{100 * row['asked_loss']:.2g} % is asked"
            )
    return found


def poisson_tail(count: int, mean: float, below: bool) -> float:
    """The probability of at most (`below`) or at least so many events, where so many are the mean."""
    if mean <= 0:
        return 1.0 if below or not count else 0.0
    numbers = range(count + 1) if below else range(count, count + 1 + math.ceil(mean + 20 * math.sqrt(mean) + 20))
    return sum(math.exp(number * math.log(mean) - mean - math.lgamma(number + 1)) for number in numbers)


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
