"""The figures of a run, and what figures of several runs need of their tables; what a run does not have is NaN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from testbed.analysis.load import Run
from testbed.runlog.folder import COMMITTED
from testbed.runlog.summary import summarise

MS = 1e3  # milliseconds per second
MIB = 2**20
_FIGURES = (
    "mean_token_with_stall_ms", "ttft_ms", "stall_s", "decision_ms", "migrations", "migrated_bytes", "wire_bytes",
    "prediction_error",
)  # fmt: skip
# What `summarise` reads, in its order: table -> the required columns, and those that may be empty.
_READ = {
    "tokens": (["step", "prefill", "latency_s"], ["predicted_s", "wire_bytes"]),
    "migrations": (["outcome", "bytes", "start_s"], ["last_byte_s"]),
    "decisions": (["step", "decision_s"], ["stall_s"]),
}


def relative_error(run: Run) -> pd.Series:
    """|predicted - measured| / measured of each decode token that has a prediction."""
    tokens = run.decoded.dropna(subset=["predicted_s"])
    tokens = tokens[tokens["latency_s"] > 0]
    return ((tokens["predicted_s"] - tokens["latency_s"]).abs() / tokens["latency_s"]).rename("relative_error")


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


def achieved_share(run: Run) -> pd.Series:
    """The achieved over the requested rate of each timed transfer; long ones reach `TCP_SHARE` at most."""
    rates = run.rates[run.rates["requested_bps"] > 0]
    return (rates["achieved_bps"] / rates["requested_bps"]).rename("achieved_share")


def metrics(run: Run) -> pd.Series:
    """All figures of a run by name, as a row of a table. Those that a summary has are computed like there."""
    tables = (_rows(getattr(run, table), *columns) for table, columns in _READ.items())
    found = summarise(*tables, charge_decision=bool(run.fact("charge_decision")))
    figures = {f"{name}_ms": ms for name, ms in found["token_latency_ms"].items()}
    figures |= {key: found[key] for key in _FIGURES}
    ledgers = run.devices["ledger_bytes"].dropna()
    joules = run.fact("joules_per_token")  # of the summary: no table has a device's power
    return pd.Series(
        {
            "run": run.folder.name,
            "policy": run.policy,
            "status": run.status,
            "tokens": len(run.tokens),
            **{key: float("nan") if value is None else value for key, value in figures.items()},
            "peak_memory_bytes": int(ledgers.max()) if len(ledgers) else 0,
            "oom_kills": int((run.events["kind"] == "oom_kill").sum()),
            "joules_per_token": float("nan") if joules is None else float(joules),
            "achieved_share": float(achieved_share(run).median()),
        }
    )


def _rows(frame: pd.DataFrame, required: list[str], optional: list[str]) -> list[Any]:
    """The rows of a table; what is empty is None."""
    some = frame[optional].astype(object)
    return pd.concat([frame[required], some.where(some.notna(), None)], axis="columns").to_dict("records")
