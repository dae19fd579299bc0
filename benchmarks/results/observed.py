"""Compares policies that are shown the trace with policies that are shown what the run has seen.

`python -m benchmarks.results.observed` simulates a GPT-2 on `topologies/star4.yaml` under each bundled trace that is
made for it, but for the outage, which ends a run on the token clock. Traces and devices are the same for every seed; a
seed draws what policies choose at random.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from benchmarks.results import store
from benchmarks.results.paired import Mean, prose, ratio, table
from benchmarks.results.running import Planned, collect_runs, found_rows, missing
from testbed.controller.calibration import NOMINAL_HOP_S

NAME = "observed"
TRACES = ("link-collapse", "memory-squeeze", "cpu-contention", "cellular-walk")
SHOWN: dict[str, dict[str, Any]] = {
    "oracle": {"observation": "oracle"},
    "measured": {"observation": "measured"},
    "no probes": {"observation": "measured", "probe_share": 0},
}
DRAWING = ("headroom", "paper-search")  # policies that draw at random
OTHERS = ("static", "greedy", "edgeshard")
SEEDS = range(1, 21)


def planned() -> list[Planned]:
    """All runs, one seed after the other."""
    return [
        Planned(
            "gpt2-star4.yaml", policy, seed, {"traces": [f"traces/data/{trace}.csv"], **settings},
            {"trace": trace, "shown": shown}, NOMINAL_HOP_S,
        )
        for seed in SEEDS
        for trace in TRACES
        for policy in (*DRAWING, *OTHERS)
        if seed == SEEDS[0] or policy in DRAWING
        for shown, settings in SHOWN.items()
    ]  # fmt: skip


def main() -> None:
    """Simulate the missing runs and save the table."""
    options = store.arguments(NAME, __doc__).parse_args()
    runs, parts = planned(), store.Parts(options.parts)
    collect_runs(parts, store.share_of(runs, options), NAME, options.seconds)
    frame = pd.DataFrame(found_rows(parts, runs))
    store.save(NAME, frame, store.how_obtained(
        f"python -m benchmarks.results.{NAME}", "simulated", parts.seconds(), sorted(frame["seed"].unique().tolist()),
        [f"{1e3 * NOMINAL_HOP_S:g} ms of software for a hop"], commit=parts.commits(),
        runs_missing=missing(parts, runs),
    ))  # fmt: skip


# --- the page --------------------------------------------------------------------------------------------------


def section(frame: pd.DataFrame, how: store.How) -> str:
    """The section of the page on what it costs to see only what a controller can see."""
    rows = [
        _row(trace, policy, own)
        for (trace, policy), own in frame.groupby(["trace", "policy"], sort=False)
    ]  # fmt: skip
    headings = ["trace", "policy", "oracle, ms", "measured", "without probes", "finished", "moves"]
    text = [
        "## Observed: policies that see only what a run shows",
        prose("""A GPT-2 on four devices under each trace that is made for them. A policy is shown the trace, or only
            what the run has seen ([what a policy may know](measured.md)), with probes in one per cent of each link's
            time or without any. Decreases of memory are announced in both."""),
        table(headings, rows),
        prose("""Times are those of a token with its share of stalls, probes included: of the oracle in milliseconds,
            of the others as the mean difference from it (95 % bootstrap interval where a policy draws at random).
            *finished* and *moves* are those of the oracle, measured, and measured without probes."""),
        store.obtained(how),
    ]
    return "\n\n".join(text)


def _row(trace: str, policy: str, own: pd.DataFrame) -> list[object]:
    """A line of the table: of one policy under one trace."""
    by_shown = {shown: own[own["shown"] == shown] for shown in SHOWN}
    done = {shown: runs[runs["status"] == "done"] for shown, runs in by_shown.items()}
    compared = own.assign(policy=own["shown"])
    differences: list[Mean | None] = [ratio(compared, shown, "oracle") for shown in SHOWN if shown != "oracle"]
    oracle_ms = done["oracle"]["mean_token_with_stall_ms"].mean()
    finished = ", ".join(f"{len(done[shown])}/{len(by_shown[shown])}" for shown in SHOWN)
    moves = ", ".join("-" if done[shown].empty else f"{done[shown]['migrations'].mean():.0f}" for shown in SHOWN)
    told = [None if mean is None else mean.percent() for mean in differences]
    return [trace, policy, None if done["oracle"].empty else f"{oracle_ms:.1f}", *told, finished, moves]


if __name__ == "__main__":
    main()
