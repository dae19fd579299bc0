"""Compares policies that are shown the trace with policies that are shown what the run has seen.

`python -m benchmarks.results.observed` simulates a GPT-2 on `topologies/star4.yaml`, and the quick start where a trace
is made for its boards:

- under each bundled trace: the outage on the time clock, because on the token clock a link at 0 bit/s that is in use
  never comes back;
- under recorded traces of the link of `c`, on the time clock. The files are in `../shared/traces`, or in the folder
  HEADROOM_SHARED_TRACES, and are no part of the project; where they are not there, their runs are missing;
- while `b` loses memory and nobody says so before;
- while links and devices fluctuate as each seed draws them.

Else traces are the same for every seed, and a seed draws what policies choose at random.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.results import store
from benchmarks.results.paired import Mean, named, prose, ratio, table
from benchmarks.results.running import Planned, collect_runs, found_rows, missing
from testbed.controller.calibration import NOMINAL_HOP_S
from testbed.traces import Change, Trace

NAME = "observed"
MIB = 2**20
STAR, BOARDS = "gpt2-star4.yaml", "quickstart.yaml"
TRACES: dict[str, tuple[str, dict[str, Any]]] = {  # of the package: the experiment, and settings beside the trace
    "link-collapse": (STAR, {}),
    "memory-squeeze": (STAR, {}),
    "cpu-contention": (STAR, {}),
    "cellular-walk": (STAR, {}),
    "outage": (STAR, {"trace_clock": "time", "tokens": 160}),  # it is from 30 s to 33 s
    "board-squeeze": (BOARDS, {}),
}
FOLDER = Path(os.environ.get("HEADROOM_SHARED_TRACES", store.ROOT.parent / "shared" / "traces"))
RECORDED = {
    "Verizon LTE": "verizon-lte-short.up.mahimahi",
    "AT&T LTE, driving": "att-lte-driving-2016.up.mahimahi",
    "Norway, tram": "norway-tram-10.pensieve",
    "Norway, train": "norway-train-1.pensieve",
    "Oboe": "oboe-12.pensieve",
    "Irish 5G, driving": "irish-5g-driving-download.csv",
}
B_BYTES, SQUEEZED_AT = 176 * MIB, 48.0
SQUEEZES: dict[str, tuple[int, float | None]] = {  # what b loses, and how much of it with each token; None: all at once
    "8 MiB": (8 * MIB, None),
    "24 MiB": (24 * MIB, None),
    "104 MiB": (104 * MIB, None),
    "104 MiB, 1 MiB a token": (104 * MIB, 1.0 * MIB),
    "104 MiB, 0.25 MiB a token": (104 * MIB, 0.25 * MIB),
}
BUNDLED, LOGGED, SQUEEZE, DRAWN = "bundled", "recorded", "unannounced", "drawn"
DRAWN_TRACES = [{"generate": "fluctuation", "target": target} for target in ("link/*", "device/*")]
ORACLE, MEASURED, NO_PROBES = "oracle", "measured", "no probes"
SHOWN: dict[str, dict[str, Any]] = {
    ORACLE: {"observation": "oracle"},
    MEASURED: {"observation": "measured"},
    NO_PROBES: {"observation": "measured", "probe_share": 0},
}
DRAWING = ("headroom", "paper-search")  # policies that draw at random
OTHERS = (
    "static", "greedy", "edgeshard", "layerwise", "galaxy", "tensor-parallel", "round-robin", "dynamic-threshold",
    "paper",
)  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {  # a policy with options: its name in the data, and what it is given
    "headroom, margin 5 %": {"margin": 0.05},
    "headroom, margin 20 %": {"margin": 0.2},
    "headroom, hysteresis 0": {"hysteresis": 0},
}
NEAR = 1.1  # times the oracle's time that count as near
MARGINS, STEADY = tuple(OPTIONS)[:2], tuple(OPTIONS)[2:]
POLICIES = {
    BUNDLED: (*DRAWING, *OTHERS), LOGGED: (*DRAWING, *OTHERS), SQUEEZE: (*DRAWING, *MARGINS, *OTHERS),
    DRAWN: ("headroom", *STEADY, "paper-search"),
}  # fmt: skip
SEEDS = {SQUEEZE: range(1, 6), LOGGED: range(1, 4), DRAWN: range(1, 21), BUNDLED: range(1, 21)}


def planned() -> list[Planned]:
    """All runs, one seed after the other."""
    return [one for seed in SEEDS[BUNDLED] for one in _of_seed(seed)]


def _of_seed(seed: int) -> Iterator[Planned]:
    for group, trace, experiment, settings in _traces():
        for policy in POLICIES[group]:
            if seed not in SEEDS[group] or (policy in OTHERS and seed != SEEDS[group][0]):
                continue
            for shown, observed in SHOWN.items():
                if (group == SQUEEZE and shown == NO_PROBES) or (policy in MARGINS and shown == ORACLE):
                    continue
                options = {"policy_options": OPTIONS[policy]} if policy in OPTIONS else {}
                yield Planned(
                    experiment, policy.partition(",")[0], seed, settings | observed | options,
                    {"group": group, "trace": trace, "shown": shown}, NOMINAL_HOP_S, policy,
                )  # fmt: skip


def _traces() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """(group, name, experiment, settings) of what happens during a run."""
    for name, (lost, ramp) in SQUEEZES.items():
        row = Change(SQUEEZED_AT, "device/b", "memory", float(B_BYTES - lost))
        yield SQUEEZE, name, STAR, {"traces": [Trace((row,)).to_dict()], "grace": 0, "ramp": ramp}
    for name, file in RECORDED.items():
        entry = {"path": str(FOLDER / file), "target": "link/c", "direction": "both"}
        yield LOGGED, name, STAR, {"traces": [entry], "trace_clock": "time"}
    yield DRAWN, "drawn links and devices", STAR, {"traces": DRAWN_TRACES}
    for name, (experiment, settings) in TRACES.items():
        yield BUNDLED, name, experiment, {"traces": [f"traces/data/{name}.csv"], **settings}


def main() -> None:
    """Simulate the missing runs and save the table."""
    options = store.arguments(NAME, __doc__).parse_args()
    runs, parts = planned(), store.Parts(options.parts)
    able = [one for one in runs if one.said["group"] != LOGGED or FOLDER.is_dir()]
    collect_runs(parts, store.share_of(able, options), NAME, options.seconds)
    frame = pd.DataFrame(found_rows(parts, runs))
    store.save(NAME, frame, store.how_obtained(
        f"python -m benchmarks.results.{NAME}", "simulated", parts.seconds(), sorted(frame["seed"].unique().tolist()),
        [f"{1e3 * NOMINAL_HOP_S:g} ms of software for a hop"], commit=parts.commits(),
        runs_missing=missing(parts, runs),
    ))  # fmt: skip


# --- the page --------------------------------------------------------------------------------------------------


def section(frame: pd.DataFrame, how: store.How) -> str:
    """The section of the page on what it costs to see only what a controller can see."""
    groups = {group: frame[frame["group"] == group] for group in SEEDS}
    headings = ["trace", "policy", "oracle, ms", "measured", "without probes", "finished", "moves", "wrong moves"]
    text = [
        "## Observed: policies that see only what a run shows",
        prose("""A GPT-2 on four devices under each bundled trace, and the quick start under the one that is made for
            its boards. A policy is shown the true conditions (the oracle), or only what the run has seen ([what a
            policy may know](measured.md)), with probes that take one per cent of each link's time or without any.
            Decreases of memory are always announced. The outage is on the time clock, over 160 tokens: on the token
            clock a link at 0 bit/s that is in use never comes back, and no run that was tried there reached its end.
            `single` is missing, because no device holds this model, and so is `exact`, of which a decision can take
            as long as its limit."""),
        table(headings, _compared(groups[BUNDLED])),
        prose(_headroom(groups[BUNDLED])),
        prose("""Times are those of a token with its share of stalls, probes included: in milliseconds with the oracle,
            and as the mean difference from it otherwise (with a 95 % bootstrap interval if a policy draws at random).
            *finished*, *moves* and *wrong moves* have three values: with the oracle, measured, and measured without
            probes. A decision to move is wrong if staying was possible and would, under the true conditions of that
            time, have made the rest of the run faster."""),
        "The same where a recorded trace drives the link of `c` in both directions, on the time clock:",
        table(headings, _compared(groups[LOGGED])),
        prose(f"""{_headroom(groups[LOGGED])} These links are slow from the start, and the topology file says
            100 Mbit/s. With the oracle no placement of `headroom`, `paper-search`, `static`, `greedy` or `edgeshard`
            uses `c`. Without probes all of these except `edgeshard` give it blocks at first. When its link turns out
            to be slow, the blocks are already there and expensive to move. Short bursts before the first placement
            show it in time."""),
        prose("""The same while links and devices fluctuate as each seed draws them. `headroom` keeps a placement
            unless moving gains more than 0.1 times the largest spread that the gain depends on (its `hysteresis`).
            This value was chosen on the seeds 101 to 104; *hysteresis 0* is without it."""),
        table(headings, _compared(groups[DRAWN])),
        prose(f"""Device `b` loses memory at token {SQUEEZED_AT:g} without an announcement (`grace: 0`, with `ramp`
            where it goes gradually). A policy sees it in the first sample afterwards. `margin` leaves a share of each
            device's memory free."""),
        table(["b loses", "policy", "killed", "killed at token", "token, ms", "moves", "wrong moves"],
              _squeezed(groups[SQUEEZE])),
        prose("""*killed*: how many of the runs ran out of memory, with the oracle and measured. The last columns are
            of measured runs: the tokens at which they were killed, and means; that of the time is over the runs that
            reached their end."""),
        store.obtained(how),
    ]  # fmt: skip
    return "\n\n".join(text)


def _headroom(frame: pd.DataFrame) -> str:
    """Sentences on the traces under which headroom with estimates keeps near to itself with the oracle, and kills."""
    own = frame[(frame["policy"] == "headroom") & frame["shown"].isin((ORACLE, MEASURED))]
    ratios = {trace: ratio(runs.assign(policy=runs["shown"]), MEASURED, ORACLE)
              for trace, runs in own.groupby("trace", sort=False)}  # fmt: skip
    far = [f"{trace} ({mean.percent()})" for trace, mean in ratios.items() if mean is not None and mean.high > NEAR]
    near = len(ratios) - len(far)
    killed = [(own["status"].eq("oom") & own["shown"].eq(shown)).sum() for shown in (MEASURED, ORACLE)]
    text = f"With estimates `headroom` keeps within {100 * (NEAR - 1):.0f} % of itself with the oracle under {near} of "
    text += f"{len(ratios)} traces, by the whole interval" + (f", and not under {named(far)}" if far else "")
    return f"{text}. Of its runs {killed[0]} were killed with estimates and {killed[1]} with the oracle."


def _compared(frame: pd.DataFrame) -> list[Sequence[object]]:
    return [_row(trace, policy, own) for (trace, policy), own in frame.groupby(["trace", "policy"], sort=False)]


def _row(trace: str, policy: str, own: pd.DataFrame) -> Sequence[object]:
    """A line of the table: of one policy under one trace."""
    by_shown = {shown: own[own["shown"] == shown] for shown in SHOWN}
    done = {shown: runs[runs["status"] == "done"] for shown, runs in by_shown.items()}
    compared = own.assign(policy=own["shown"])
    differences: list[Mean | None] = [ratio(compared, shown, ORACLE) for shown in SHOWN if shown != ORACLE]
    oracle_ms = done[ORACLE]["mean_token_with_stall_ms"].mean()
    finished = ", ".join(f"{len(done[shown])}/{len(by_shown[shown])}" for shown in SHOWN)
    told = [None if mean is None else mean.percent() for mean in differences]
    moves = [_means(done, column) for column in ("migrations", "wrong_moves")]
    return [trace, policy, None if done[ORACLE].empty else f"{oracle_ms:.1f}", *told, finished, *moves]


def _means(done: Mapping[str, pd.DataFrame], column: str) -> str:
    return ", ".join("-" if done[shown].empty else f"{done[shown][column].mean():.3g}" for shown in SHOWN)


def _squeezed(frame: pd.DataFrame) -> list[Sequence[object]]:
    rows: list[Sequence[object]] = []
    for (trace, policy), own in frame.groupby(["trace", "policy"], sort=False):
        killed = own[own["status"] == "oom"]
        counts = [
            f"{(killed['shown'] == shown).sum()}/{(own['shown'] == shown).sum()}"
            for shown in (ORACLE, MEASURED)
            if (own["shown"] == shown).any()
        ]
        seen, lost = own[own["shown"] == MEASURED], killed[killed["shown"] == MEASURED]
        done_ms = seen[seen["status"] == "done"]["mean_token_with_stall_ms"].astype(float)
        at = ", ".join(str(token) for token in sorted(lost["tokens_done"].unique()))
        moves = [f"{seen[column].astype(float).mean():.3g}" for column in ("migrations", "wrong_moves")]
        rows.append([
            trace, policy, ", ".join(counts), at or None, None if done_ms.empty else f"{done_ms.mean():.1f}", *moves,
        ])  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
