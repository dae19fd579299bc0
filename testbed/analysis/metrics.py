"""The figures of a run's summary, computed from DataFrames; a figure that the run does not have is NaN.

`testbed.runlog.summary` computes the same figures without pandas when a run ends. Tests compare the two.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from testbed.analysis.load import Run
from testbed.runlog.folder import COMMITTED

MS = 1e3  # milliseconds per second
MIB = 2**20


def token_latency_ms(run: Run) -> pd.Series:
    """The mean, p50, p95 and p99 of the latency of decode tokens, in ms."""
    return _spread(run.decoded["latency_s"] * MS).rename("token_latency_ms")


def tpot_ms(run: Run) -> pd.Series:
    """The mean, p50, p95 and p99 of the time per output token, in ms; a token after migrations waits for them too."""
    stalls = run.decisions.groupby("step")["stall_s"].sum()
    waited = run.decoded["step"].map(stalls).fillna(0.0)
    return _spread((run.decoded["latency_s"] + waited) * MS).rename("tpot_ms")


def _spread(values: pd.Series) -> pd.Series:
    quantiles = values.quantile([0.50, 0.95, 0.99]).set_axis(["p50", "p95", "p99"])
    return pd.concat([pd.Series({"mean": values.mean()}), quantiles])


def ttft_ms(run: Run) -> float:
    """The latency of token 0, which the prefill produces, in ms."""
    return float((run.tokens.loc[run.tokens["prefill"], "latency_s"] * MS).mean())


def relative_error(run: Run) -> pd.Series:
    """|predicted - measured| / measured of each decode token that has a prediction."""
    tokens = run.decoded.dropna(subset=["predicted_s"])
    tokens = tokens[tokens["latency_s"] > 0]
    return ((tokens["predicted_s"] - tokens["latency_s"]).abs() / tokens["latency_s"]).rename("relative_error")


def prediction_error(run: Run) -> float:
    """The median of `relative_error`."""
    return float(relative_error(run).median())


def committed(run: Run) -> pd.DataFrame:
    """The committed migrations."""
    return run.migrations[run.migrations["outcome"] == COMMITTED]


def migrated_before(run: Run) -> set[int]:
    """The tokens before which blocks were migrated."""
    epochs = set(committed(run)["epoch"])
    return set(run.decisions.loc[run.decisions["epoch"].isin(epochs) & (run.decisions["moved"] > 0), "step"])


def mean_stalls(runs: Sequence[Run]) -> pd.Series:
    """The stall in seconds before each token that waited in any of these runs, as the mean over all of them."""
    every = pd.concat([run.decisions[["step", "stall_s"]] for run in runs])
    return every[every["stall_s"] > 0].groupby("step")["stall_s"].sum().astype(float) / len(runs)


def tokens_to_decode(runs: Sequence[Run]) -> int:
    """How many tokens after the first were asked of these runs; of a run that does not say so, those that it made."""
    return sum(max((run.tokens_asked or 0) - 1, len(run.decoded)) for run in runs)


def losses(run: Run) -> dict[int, str]:
    """The tokens at which devices were lost, with their names."""
    lost = run.faults[run.faults["cause"] != "late"]
    at: dict[int, list[str]] = {}
    for step, device in zip(lost["step"], lost["device"], strict=True):
        at.setdefault(int(step), []).append(device)
    return {step: ", ".join(names) for step, names in at.items()}


def migrated_bytes(run: Run) -> int:
    """The payload bytes of all committed migrations."""
    return int(committed(run)["bytes"].sum())


def stall_s(run: Run) -> float:
    """Decode seconds lost to migrations: from the table of decisions, else the union of the transfers' times."""
    stalls = run.decisions["stall_s"].dropna()
    if len(stalls):
        return float(stalls.sum())
    moving = run.migrations.dropna(subset=["last_byte_s"]).sort_values(["start_s", "last_byte_s"])
    reached = moving["last_byte_s"].cummax().shift(fill_value=float("-inf"))
    begin = moving["start_s"].clip(lower=reached)
    return float((moving["last_byte_s"] - begin).clip(lower=0).sum())


def peak_memory_bytes(run: Run) -> pd.Series:
    """The most that was in use on each device, in bytes, beside what a worker without blocks takes."""
    return run.devices.dropna(subset=["ledger_bytes"]).groupby("device")["ledger_bytes"].max()


def achieved_share(run: Run) -> pd.Series:
    """The achieved over the requested rate of each timed transfer; at most `TCP_SHARE` is possible."""
    rates = run.rates[run.rates["requested_bps"] > 0]
    return (rates["achieved_bps"] / rates["requested_bps"]).rename("achieved_share")


def metrics(run: Run) -> pd.Series:
    """All figures of a run by name, as a row of a table."""
    latency = token_latency_ms(run)
    stall = stall_s(run)
    decoded = run.decoded["latency_s"]
    joules = run.fact("joules_per_token")  # of the summary: no table has a device's power
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
            "joules_per_token": float("nan") if joules is None else float(joules),
            "achieved_share": float(achieved_share(run).median()),
        }
    )
