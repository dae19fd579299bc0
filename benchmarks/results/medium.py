"""Compares policies with 25 devices and 1000 tokens, token by token: latency, memory, and when they give up.

`python -m benchmarks.results.medium` simulates experiments/paper-medium.yaml and experiments/honest-medium.yaml; each
seed is another instance.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.results import store
from benchmarks.results.paired import prose
from benchmarks.results.running import FREE_EDGESHARD, NOMINAL_NOTE, Planned, missing, part_key, run, simulated
from testbed import analysis

NAME = "medium"
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "paper": ("paper-medium.yaml", {"interval": 40}),
    "honest": ("honest-medium.yaml", {}),
    "roomy": ("honest-medium.yaml", {"topology.memory": "4 x model"}),
}
SEEDS = range(1, 21)
POLICIES = ("paper", "paper-search", "greedy", "static", "edgeshard", "galaxy")
SIMULATED = (*POLICIES, FREE_EDGESHARD)
# With one layer, EdgeShard's first layer may be anywhere as it is.
LEFT_OUT = {"paper": (FREE_EDGESHARD,), "honest": ("static", "greedy"), "roomy": ("static", "greedy")}
BIN = 40  # tokens in a row of the data
RUN_KEYS = (
    "setting", "policy", "seed", "status", "error_kind", "tokens_asked", "tokens_done", "mean_token_with_stall_ms",
    "stall_s", "migrations", "decision_ms", "most_memory_share", "refused_at",
)  # fmt: skip


def planned() -> list[Planned]:
    """All runs, one setting after the other."""
    return [
        simulated(file, policy, seed, changes, {"setting": setting})
        for setting, (file, changes) in SETTINGS.items()
        for seed in SEEDS
        for policy in SIMULATED
        if policy not in LEFT_OUT[setting]
    ]


def rows_of(one: Planned) -> list[dict[str, Any]]:
    """A row for every `BIN` tokens of a run, with the run's figures in each; a run without a token has one row."""
    with tempfile.TemporaryDirectory(prefix="headroom-medium-") as folder:
        row = run(one, keep=Path(folder))
        about = {key: row.get(key) for key in RUN_KEYS}
        if "run" not in row:
            return [about | {"refused_at": 0}]
        loaded = analysis.load(Path(folder) / row["run"])
        decisions = loaded.decisions
        refused = decisions.loc[~decisions["feasible"].astype(bool), "step"]
        about["refused_at"] = int(refused.min()) if len(refused) else None
        bins = _bins(loaded.tokens, decisions, loaded.devices)
    return [about | one for one in bins.to_dict("records")] or [about]


def _bins(tokens: pd.DataFrame, decisions: pd.DataFrame, devices: pd.DataFrame) -> pd.DataFrame:
    """Latency and memory of each `BIN` tokens: means of the tokens, and the most that the devices held."""
    if tokens.empty:
        return pd.DataFrame()
    stalls = decisions.groupby("step")["stall_s"].sum()
    decoded = tokens[~tokens["prefill"].astype(bool)].copy()
    decoded["token_ms"] = 1e3 * (decoded["latency_s"] + decoded["step"].map(stalls).fillna(0.0))
    decoded["bin"] = decoded["step"] // BIN
    held = devices.dropna(subset=["ledger_bytes"]).copy()
    held["share"] = (held["ledger_bytes"] / held["budget_bytes"]).where(held["budget_bytes"] > 0)
    held["sample"] = held.groupby(["t_s", "device"]).cumcount()  # before and after a decision, at the same time
    moments = held.groupby(["t_s", "sample"]).agg(
        total_bytes=("ledger_bytes", "sum"), most_bytes=("ledger_bytes", "max"), most_share=("share", "max")
    )
    starts = tokens["start_s"].to_numpy()
    times = moments.index.get_level_values("t_s").to_numpy()
    moments["bin"] = (starts.searchsorted(times, side="left")).clip(0, len(starts) - 1) // BIN
    memory = moments.groupby("bin")[["total_bytes", "most_bytes", "most_share"]].max()
    found = decoded.groupby("bin")["token_ms"].mean().to_frame().join(memory, how="left").reset_index()
    found["token"] = (found.pop("bin") + 1) * BIN
    return found


def main() -> None:
    """Simulate the missing runs and save the table."""
    options = store.arguments(NAME, __doc__).parse_args()
    runs = planned()
    parts = store.collect(store.share_of(runs, options), part_key, rows_of, options, NAME)
    frame = pd.DataFrame([row for one in runs for row in parts.find(part_key(one)) or []])
    store.save(NAME, frame, store.how_obtained(
        f"python -m benchmarks.results.{NAME}", "simulated", parts.seconds(), sorted(frame["seed"].unique().tolist()),
        [NOMINAL_NOTE], commit=parts.commits(), runs_missing=missing(parts, runs),
    ))  # fmt: skip


def section(frame: pd.DataFrame, how: store.How) -> str:
    """The section of the page on 25 devices."""
    from benchmarks.results import medium_page as told
    from benchmarks.results.drawing import image

    told.draw_latency(frame, f"{NAME}-latency")
    told.draw_memory(frame, f"{NAME}-memory")
    runs = told.runs_of(frame)
    text = [
        "## Medium: 25 devices, 1000 tokens",
        prose("""Each seed is another instance. In the paper's setting policies decide every 40 tokens instead of every
            8 as in the experiment file, to save time. That favours migration, because a move must pay within the
            interval after it, and deciding costs a fifth. In the other settings they decide every 16 tokens, as in the
            file. EdgeShard is run both with its first layer at the source, as in its paper, and with that layer
            anywhere; the better run of each instance counts. With a single layer it is never bound to the source. FFNs
            are whole, also for Galaxy, which would cut them ([what that costs it](policies.md#rivals))."""),
        image(f"{NAME}-latency", "Latency against token for each policy, in each setting"),
        image(f"{NAME}-memory", "Memory of the fullest device and of all devices against token, in each setting"),
        told.legend(),
    ]
    for setting, (file, changes) in SETTINGS.items():
        changed = "".join(f" with `{key}={value}`" for key, value in changes.items())
        own = runs[runs["setting"] == setting]
        if len(own):
            text += [f"**{told.TITLES[setting]}**, `experiments/{file}`{changed}:", told.policy_table(own)]
    return "\n\n".join([*text, store.obtained(how)])


if __name__ == "__main__":
    main()
