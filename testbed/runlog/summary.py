"""The figures of a run's summary, computed from the rows of its tables.

These are pure functions without pandas, so the controller can use them. They may read the rows several times. A figure
that the run does not have is None, never zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from testbed.runlog.tables import COMMITTED

Row = Mapping[str, Any]

MS = 1e3  # milliseconds per second


def summarise(
    tokens: Iterable[Row],
    migrations: Iterable[Row] = (),
    decisions: Iterable[Row] = (),
    devices: Iterable[Row] = (),
    spans: Iterable[Row] = (),
    *,
    charge_decision: bool = False,
) -> dict[str, Any]:
    """The keys of a summary that follow from the rows of the tables.

    `token_latency_ms` and `mean_token_ms` cover decode tokens; `ttft_ms` is the prefill. `tpot_ms` is the time per
    output token as a reader of the text would see it: a token after a migration waits for that too, and with
    `charge_decision` also for the deciding. `tpot_without_stalls_ms` is the same without both.
    `first_placement_ms` is the mean of the decode tokens before the second decision.
    `mean_token_with_stall_ms` spreads the stalls over all decode tokens: it compares policies that migrate with
    policies that do not. `tokens_per_s` is over `total_s`. `decision_ms` is the sum over the run. `migrations` counts
    committed blocks. `wire_bytes` is the traffic of all tokens, including the prefill.
    """
    latency = [row["latency_s"] for row in tokens if not row["prefill"]]
    first = next((row["latency_s"] for row in tokens if row["prefill"]), None)
    stall = stall_seconds(migrations, decisions)
    deciding = math.fsum(row["decision_s"] for row in decisions)
    charged = stall + (deciding if charge_decision else 0.0)
    moved = [row["bytes"] for row in migrations if row["outcome"] == COMMITTED]
    predicted = [row["predicted_s"] for row in tokens if not row["prefill"] and row.get("predicted_s") is not None]
    second = min((row["step"] for row in decisions if row["step"] > 0), default=math.inf)
    at_first = [row["latency_s"] for row in tokens if not row["prefill"] and row["step"] < second]
    waited = waits_by_step(decisions, charge_decision)
    seen = [row["latency_s"] + waited.get(row["step"], 0.0) for row in tokens if not row["prefill"]]
    count, total = sum(1 for _ in tokens), math.fsum(row["latency_s"] for row in tokens) + charged
    return {
        "token_latency_ms": _spread(latency),
        "tpot_ms": _spread(seen),
        "tpot_without_stalls_ms": _spread(latency),
        "tokens_per_s": count / total if total else None,
        "mean_token_ms": _ms(mean(latency)),
        "mean_token_with_stall_ms": _ms((math.fsum(latency) + charged) / len(latency)) if latency else None,
        "first_placement_ms": _ms(mean(at_first)),
        "ttft_ms": _ms(first),
        "total_s": total,
        "stall_s": stall,
        "decision_ms": MS * deciding,
        "migrations": len(moved),
        "migrated_bytes": sum(moved),
        "wire_bytes": sum(row.get("wire_bytes") or 0 for row in tokens),
        "peak_memory_bytes": peak_memory_bytes(devices),
        "predicted_ms": {"mean": _ms(mean(predicted))},
        "prediction_error": prediction_error(row for row in tokens if not row["prefill"]),
        "overruns": sum(bool(row.get("overrun")) for row in spans),
    }


def losses(faults: Iterable[Row], recoveries: Iterable[Row]) -> dict[str, Any]:
    """The keys of a summary about lost devices.

    `recovery_s` counts from the notice of a loss to whole KV caches, `downtime_s` to the first token after it.
    """
    rows = list(recoveries)
    return {
        "lost_devices": [row["device"] for row in faults if row["cause"] != "late"],
        "downtime_s": math.fsum((row.get("token_s") or row["rebuilt_s"]) - row["noticed_s"] for row in rows),
        "recovery_s": math.fsum(row["rebuilt_s"] - row["noticed_s"] for row in rows),
    }


def mean(values: Sequence[float]) -> float | None:
    """The arithmetic mean; None for no values."""
    return math.fsum(values) / len(values) if values else None


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The percentile with linear interpolation (numpy's default); None for no values."""
    if not values:
        return None
    ordered = sorted(values)
    rank = (len(ordered) - 1) * percent / 100
    below = math.floor(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (rank - below)


def prediction_error(decoded: Iterable[Row]) -> float | None:
    """The median of |predicted - measured| / measured over decode tokens that have a prediction."""
    errors = [
        abs(row["predicted_s"] - row["latency_s"]) / row["latency_s"]
        for row in decoded
        if row.get("predicted_s") is not None and row["latency_s"] > 0
    ]
    return percentile(errors, 50)


def stall_seconds(migrations: Iterable[Row], decisions: Iterable[Row]) -> float:
    """The decode time lost to migrations.

    This is the sum of the decisions' `stall_s`. If none has it, it is the time in which at least one block was being
    transferred; overlapping transfers count once.
    """
    stalls = [row["stall_s"] for row in decisions if row.get("stall_s") is not None]
    if stalls:
        return math.fsum(stalls)
    lost, reached = 0.0, -math.inf
    moving = [(row["start_s"], row["last_byte_s"]) for row in migrations if row.get("last_byte_s") is not None]
    for start, end in sorted(moving):
        lost += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return lost


def waits_by_step(decisions: Iterable[Row], charge_decision: bool) -> dict[int, float]:
    """Seconds that a token waits for the decision before it: the stall of its migrations, and perhaps the deciding.

    The keys are the numbers of the tokens. Token 0 does not wait.
    """
    found: dict[int, float] = {}
    for row in decisions:
        wait = (row.get("stall_s") or 0.0) + (row["decision_s"] if charge_decision else 0.0)
        found[row["step"]] = found.get(row["step"], 0.0) + wait
    return found


def peak_memory_bytes(devices: Iterable[Row]) -> dict[str, int]:
    """The most that was in use on each device beside what a worker without blocks takes."""
    peak: dict[str, int] = {}
    for row in devices:
        if row.get("ledger_bytes") is not None:
            peak[row["device"]] = max(peak.get(row["device"], 0), row["ledger_bytes"])
    return peak


def _spread(seconds: Sequence[float]) -> dict[str, float | None]:
    """Mean and percentiles in ms."""
    return {"mean": _ms(mean(seconds))} | {f"p{one}": _ms(percentile(seconds, one)) for one in (50, 95, 99)}


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else MS * seconds
