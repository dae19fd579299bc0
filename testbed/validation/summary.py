"""Sums a comparison up: by configuration, against the bounds that were set before anything was compared.

A configuration is what ran on which boards, from one source. It counts once, however many rows tell of it, with the
median of its rows' errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean, median
from typing import Any

from testbed.validation.comparison import TOKENS, Compared

BYTES_WITHIN = 0.01  # of every value
COMPUTING_MEDIAN, COMPUTING_WORST, COMPUTING_OF_NAIVE = 0.10, 0.25, 0.5
TOKEN_MEDIAN, TOKEN_WORST = 0.15, 0.35
SLOPE_WITHIN = 0.15
LEAST_CONTEXTS = 3  # of a slope


def configurations(rows: Iterable[Compared], score: str) -> dict[str, list[Compared]]:
    """The scored rows of one score by configuration, whose name says what it is."""
    found: dict[str, list[Compared]] = {}
    for one in rows:
        config = one.config
        if one.scored == score and config is not None and one.error is not None:
            boards = f"{len(config.boards)} x {config.boards[0] or 'any board'}"
            threads = f", {config.threads} threads" if config.threads else ""
            exchange = f", {config.value_bytes * 8:g} bits a value" if score == "bytes" else ""
            name = f"{config.program}, {config.shape.name}, {boards}{threads}{exchange} ({one.measurement.row.source})"
            found.setdefault(name, []).append(one)
    return found


def errors(groups: dict[str, list[Compared]], of: Callable[[Compared], float | None]) -> dict[str, float]:
    """The median error of each configuration's rows."""
    found = {}
    for name, rows in groups.items():
        known = [error for error in map(of, rows) if error is not None]
        if known:
            found[name] = median(known)
    return found


def _absolute(values: Iterable[float]) -> dict[str, float | None]:
    sizes = [abs(value) for value in values]
    return {"median_abs": median(sizes) if sizes else None, "worst_abs": max(sizes, default=None)}


def _timed(rows: Sequence[Compared], score: str) -> dict[str, Any]:
    groups = configurations(rows, score)
    own, naive = errors(groups, lambda one: one.time_error), errors(groups, lambda one: one.naive_error)
    return {
        "configurations": len(own),
        **_absolute(own.values()),
        "median_signed": median(own.values()) if own else None,
        "naive_median_abs": _absolute(naive.values())["median_abs"],
        "errors": own,
    }


def slopes(rows: Iterable[Compared]) -> list[dict[str, Any]]:
    """Computing against context, in seconds per position, where a configuration has rows at several contexts."""
    found = []
    for name, group in configurations(rows, "computing").items():
        points = [
            (one.config.context, one.measurement.seconds, one.prediction.compute_s)
            for one in group
            if one.config is not None and one.prediction is not None and one.measurement.seconds is not None
        ]
        if len({context for context, _, _ in points}) >= LEAST_CONTEXTS:
            published, predicted = (_slope([(point[0], point[number]) for point in points]) for number in (1, 2))
            found.append(
                {"configuration": name, "contexts": len(points), "published_s": published, "predicted_s": predicted,
                 "error": predicted / published - 1 if published else None}
            )  # fmt: skip
    return found


def _slope(points: Sequence[tuple[float, float]]) -> float:
    """By least squares."""
    x, y = fmean(point[0] for point in points), fmean(point[1] for point in points)
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)


def summarise(rows: Sequence[Compared]) -> dict[str, Any]:
    """Every score with its bounds, and whether it is within them; None where there is nothing to score."""
    traffic = errors(configurations(rows, "bytes"), lambda one: one.error)
    every_byte = [abs(one.error) for one in rows if one.scored == "bytes" and one.error is not None]
    computing, tokens, climbs = _timed(rows, "computing"), _timed(rows, TOKENS), slopes(rows)
    told = [one for one in rows if one.scored == "feasibility" and one.predicted is not None]
    ran = [one for one in rows if one.measurement.kind != "fits" and one.fits is not None]
    ratios = [
        one.predicted / one.measurement.value
        for one in rows
        if one.measurement.kind == "network" and not one.calibration and one.error is not None
        and one.predicted and one.measurement.value
    ]  # fmt: skip
    least_naive = computing["naive_median_abs"]
    return {
        "bytes": {
            "configurations": len(traffic), "worst_abs": max(every_byte, default=None),
            "met": all(size <= BYTES_WITHIN for size in every_byte) if every_byte else None,
        },
        "computing": computing | {
            "met": None if not computing["configurations"] else computing["median_abs"] <= COMPUTING_MEDIAN
            and computing["worst_abs"] <= COMPUTING_WORST
            and (least_naive is None or computing["median_abs"] <= COMPUTING_OF_NAIVE * least_naive),
        },
        "token_time": tokens | {
            "met": None if not tokens["configurations"] else tokens["median_abs"] <= TOKEN_MEDIAN
            and tokens["worst_abs"] <= TOKEN_WORST,
        },
        "slope": {
            "rows": climbs,
            "met": all(abs(one["error"] or 0.0) <= SLOPE_WITHIN for one in climbs) if climbs else None,
        },
        "feasibility": {
            "told": len(told), "right": sum(one.predicted == one.measurement.value for one in told),
            "ran": len(ran), "refused_though_it_ran": sum(not one.fits for one in ran),
            "met": all(one.predicted == one.measurement.value for one in told) and all(one.fits for one in ran)
            if told or ran else None,
        },
        "transfer": {"rows": len(ratios), "median_ratio": median(ratios) if ratios else None},
    }  # fmt: skip
