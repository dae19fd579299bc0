"""The summary's figures, from DataFrames; what the run does not have is NaN.

The definitions are those of DESIGN §9 and `testbed.runlog.summary`, which computes them without pandas while a run
is being closed; the tests hold the two against each other.
"""

from __future__ import annotations

import pandas as pd

from testbed.analysis.load import Run
from testbed.runlog.folder import COMMITTED

MS = 1e3  # milliseconds per second


def token_latency_ms(run: Run) -> pd.Series:
    """mean, p50, p95 and p99 of the decode tokens' latency."""
    latency = run.decoded["latency_s"] * MS
    quantiles = latency.quantile([0.50, 0.95, 0.99]).set_axis(["p50", "p95", "p99"])
    return pd.concat([pd.Series({"mean": latency.mean()}), quantiles]).rename("token_latency_ms")


def ttft_ms(run: Run) -> float:
    """Latency of token 0, the prefill's."""
    return float((run.tokens.loc[run.tokens["prefill"], "latency_s"] * MS).mean())


def relative_error(run: Run) -> pd.Series:
    """|predicted - measured| / measured of each decode token that has a prediction."""
    tokens = run.decoded.dropna(subset=["predicted_s"])
    tokens = tokens[tokens["latency_s"] > 0]
    return ((tokens["predicted_s"] - tokens["latency_s"]).abs() / tokens["latency_s"]).rename("relative_error")


def prediction_error(run: Run) -> float:
    """Median of `relative_error`."""
    return float(relative_error(run).median())


def committed(run: Run) -> pd.DataFrame:
    """The migrations that came to their commit."""
    return run.migrations[run.migrations["outcome"] == COMMITTED]


def migrated_bytes(run: Run) -> int:
    """Payload bytes of committed migrations."""
    return int(committed(run)["bytes"].sum())


def stall_s(run: Run) -> float:
    """Decode time lost to moving blocks: the decisions' own figures, else the union of the transfers' times."""
    told = run.decisions["stall_s"].dropna()
    if len(told):
        return float(told.sum())
    moving = run.migrations.dropna(subset=["last_byte_s"]).sort_values(["start_s", "last_byte_s"])
    reached = moving["last_byte_s"].cummax().shift(fill_value=float("-inf"))
    begin = moving["start_s"].clip(lower=reached)
    return float((moving["last_byte_s"] - begin).clip(lower=0).sum())


def peak_memory_bytes(run: Run) -> pd.Series:
    """Largest ledger of each device."""
    return run.devices.dropna(subset=["ledger_bytes"]).groupby("device")["ledger_bytes"].max()


def achieved_share(run: Run) -> pd.Series:
    """Achieved over requested rate of each timed transfer (TCP payload at MTU 1500 reaches at most 0.956)."""
    rates = run.rates[run.rates["requested_bps"] > 0]
    return (rates["achieved_bps"] / rates["requested_bps"]).rename("achieved_share")


def metrics(run: Run) -> pd.Series:
    """One row of a results table: the run's figures by name."""
    latency = token_latency_ms(run)
    stall = stall_s(run)
    decoded = run.decoded["latency_s"]
    return pd.Series(
        {
            "run": run.folder.name,
            "policy": run.policy,
            "status": run.status,
            "tokens": len(run.tokens),
            **{f"{name}_ms": value for name, value in latency.items()},
            "mean_token_with_stall_ms": MS * (decoded.sum() + stall) / len(decoded) if len(decoded) else float("nan"),
            "ttft_ms": ttft_ms(run),
            "stall_s": stall,
            "decision_ms": MS * run.decisions["decision_s"].sum(),
            "migrations": len(committed(run)),
            "migrated_bytes": migrated_bytes(run),
            "wire_bytes": int(run.tokens["wire_bytes"].sum()),
            "prediction_error": prediction_error(run),
            "peak_memory_bytes": int(peak_memory_bytes(run).max()) if len(peak_memory_bytes(run)) else 0,
            "oom_kills": int((run.events["kind"] == "oom_kill").sum()),
            "achieved_share": float(achieved_share(run).median()),
        }
    )
