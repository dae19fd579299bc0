"""Measures what migration is worth: policies that migrate, and the same policies with a fixed first placement.

`python -m benchmarks.results.migration` simulates the devices of gpt2-star4 under each bundled trace, and drawn
instances under seeded fluctuations and events. `--emulated` adds emulated runs of gpt2-star4, which need root and
a quiet host.
"""

from __future__ import annotations

import time
from typing import Any

import pandas as pd

from benchmarks.results import store
from benchmarks.results.paired import DONE, Mean, counted, finished, mean_of, prose, table
from benchmarks.results.running import NOMINAL_NOTE, Planned, collect_runs, found_rows, missing, part_key, run
from testbed.controller.calibration import NOMINAL_HOP_S

NAME = "migration"
FROZEN = "benchmarks/results/frozen.py"
POLICIES = ("headroom", "static", "resource-aware", f"{FROZEN}:ResourceAwareFrozen")
BUNDLED: dict[str, dict[str, Any]] = {
    "no trace": {"traces": []},
    "collapse and squeeze": {},
    "link-collapse": {"traces": ["traces/data/link-collapse.csv"]},
    "memory-squeeze": {"traces": ["traces/data/memory-squeeze.csv"]},
    "cpu-contention": {"traces": ["traces/data/cpu-contention.csv"]},
    "cellular-walk": {"traces": ["traces/data/cellular-walk.csv"]},
    # The outage begins after 30 seconds, so it needs the time clock and more tokens.
    "outage": {"traces": ["traces/data/outage.csv"], "trace_clock": "time", "tokens": 160},
}
BUNDLED_SEEDS = range(1, 4)  # the instance is always the same; only the search of headroom is random
DRAWN_FLEET = {"generate": "paper", "devices": 4, "memory": "1.4 x model", "streaming": "1.5 GB/s"}
_MEMORY = {"generate": "fluctuation", "target": "device/*", "quantity": "memory", "spread": 0.1, "least": 0.8}
DRAWN: dict[str, list[dict[str, Any]]] = {
    "links fluctuate": [{"generate": "fluctuation", "target": "link/*"}],
    "memory fluctuates": [_MEMORY],
    "all fluctuate": [
        {"generate": "fluctuation", "target": "link/*"}, {"generate": "fluctuation", "target": "device/*"}, _MEMORY,
    ],
}  # fmt: skip
DRAWN_SEEDS = range(1, 9)
EMULATED_ROUNDS = 3
LITTLE = 0.02  # of a token's time; a smaller saving is hardly worth a migration


def planned() -> list[Planned]:
    """All simulated runs; the seeds of drawn instances vary slowest."""
    bundled = [
        Planned("gpt2-star4.yaml", policy, seed, settings, _said(trace), NOMINAL_HOP_S)
        for trace, settings in BUNDLED.items()
        for policy in POLICIES
        for seed in BUNDLED_SEEDS
    ]
    drawn = [
        Planned(
            "gpt2-star4.yaml", policy, seed, {"topology": DRAWN_FLEET, "traces": traces}, _said(trace, drawn=True),
            NOMINAL_HOP_S,
        )
        for seed in DRAWN_SEEDS
        for trace, traces in DRAWN.items()
        for policy in POLICIES
    ]  # fmt: skip
    return bundled + drawn


def _said(trace: str, drawn: bool = False, backend: str = "sim") -> dict[str, Any]:
    return {"trace": trace, "drawn": drawn, "backend": backend}


def emulated() -> list[Planned]:
    """The runs of gpt2-star4 on Mininet; the rounds vary slowest."""
    return [
        Planned("gpt2-star4.yaml", policy, seed, {}, _said("collapse and squeeze", backend="mininet"))
        for seed in range(1, EMULATED_ROUNDS + 1)
        for policy in POLICIES
    ]


def main() -> None:
    """Simulate the missing runs, emulate them if asked to, and save the table."""
    parser = store.arguments(NAME, __doc__)
    parser.add_argument("--emulated", action="store_true", help="emulate what is missing, in place of simulating")
    options = parser.parse_args()
    parts = store.Parts(options.parts)
    if options.emulated:
        emulate(parts, options.seconds)
    else:
        collect_runs(parts, planned(), NAME, options.seconds)
    save(parts)


def emulate(parts: store.Parts, stop_after_s: float | None) -> None:
    """Emulate the missing runs until the time is up."""
    started = time.monotonic()
    for one in emulated():
        if parts.find(part_key(one)) is None:
            begun = time.monotonic()
            if stop_after_s is not None and begun - started > stop_after_s:
                return
            row = run(one, "mininet", parts.folder / "runs")
            parts.put(part_key(one), [row], time.monotonic() - begun)


def save(parts: store.Parts) -> None:
    """Write the table from the finished parts."""
    runs = [*planned(), *emulated()]
    frame = pd.DataFrame(found_rows(parts, runs))
    command = f"python -m benchmarks.results.{NAME}"
    store.save(NAME, frame, store.how_obtained(
        f"{command}` and `sudo .venv/bin/{command} --emulated", "simulated and emulated", parts.seconds(),
        sorted(frame["seed"].unique().tolist()), [NOMINAL_NOTE], commit=parts.commits(),
        runs_missing=missing(parts, runs),
    ))  # fmt: skip


# --- the page --------------------------------------------------------------------------------------------------

PAIRS = (("headroom", "static"), ("resource-aware", f"{FROZEN}:ResourceAwareFrozen"))
SHOWN = {
    "headroom": "headroom", "static": "static", "resource-aware": "resource-aware",
    f"{FROZEN}:ResourceAwareFrozen": "resource-aware, frozen",
}  # fmt: skip


def section(frame: pd.DataFrame, how: store.How) -> str:
    """The section of the page on migration."""
    from benchmarks.results.drawing import image

    bundled = frame[(~frame["drawn"]) & (frame["backend"] == "sim")]
    drawn_runs, measured = frame[frame["drawn"]], frame[frame["backend"] == "mininet"]
    draw(frame)
    text = [
        "## Migration: is it worth moving a head?",
        prose("""Each policy against one that places once and keeps that: headroom against `static`, which
            starts with the best first placement of all policies for the whole run, and resource-aware against
            its own first placement, frozen. Positive: with migration a token, its share of the stalls included,
            takes so much less time."""),
        "The four devices of `gpt2-star4` under each bundled trace, simulated:",
        _worth_table(bundled, list(BUNDLED)),
        f"Four drawn devices in 1.4 times the model's memory, {counted(drawn_runs['seed'].nunique(), 'instance')}:",
        _worth_table(drawn_runs, list(DRAWN)),
        "`gpt2-star4` with its two traces on Mininet:",
        _measured_table(measured),
        image(NAME, "Tokens generated with and without migration under each trace, and what it saves per token"),
        prose("""*Ends without* counts the runs that ran out of memory without migration, *ends with* those that
            did with it; time is compared over the instances that both finished."""),
        store.obtained(how),
    ]  # fmt: skip
    return "\n\n".join(text)


def claims(frame: pd.DataFrame, how: store.How) -> list[store.Claim]:
    """The claim that moving heads pays."""
    simulated = frame[frame["backend"] == "sim"]
    ended, moved, saved = 0, 0, []
    for _, own in simulated.groupby(["trace", "drawn"]):
        for moving, still in PAIRS:
            without = own[own["policy"] == still]
            if _ended(without):
                ended += _ended(without)
                moved += _ended(own[(own["policy"] == moving) & own["seed"].isin(without["seed"])])
            found = saving(own, moving, still)
            if found is not None and not _ended(without):
                saved.append(found.value)
    shrinking = "held where memory shrinks" if moved < ended else "did not hold where memory shrinks"
    else_ = "hardly" if max(saved) < LITTLE else "also"
    return [
        store.Claim(
            "Migration is worth it when resources become tight",
            f"{shrinking}, {else_} where only links or speeds change",
            f"where memory was taken away {ended} runs without migration ran out of it, {moved} of the same runs with "
            f"it; elsewhere migration saved {min(saved):+.1%} to {max(saved):+.1%} of a token's time (means per trace)",
        )
    ]


def _worth_table(frame: pd.DataFrame, traces: list[str]) -> str:
    rows = []
    for trace in traces:
        for moving, still in PAIRS:
            own = frame[frame["trace"] == trace]
            saved = worth(own, moving, still)
            with_, without = own[own["policy"] == moving], own[own["policy"] == still]
            if with_.empty or without.empty:
                continue
            done = with_[with_["status"] == DONE]
            rows.append([
                trace, moving, f"{_ended(without)} of {len(without)}", f"{_ended(with_)} of {len(with_)}",
                f"{without['tokens_done'].mean():.0f}", f"{with_['tokens_done'].mean():.0f}",
                f"{done['migrations'].mean():.0f}" if len(done) else None, None if saved is None else saved,
            ])  # fmt: skip
    headings = ["trace", "policy", "ends without", "ends with", "tokens without", "tokens with", "blocks moved",
                "time saved per token"]  # fmt: skip
    return table(headings, rows)


def worth(own: pd.DataFrame, moving: str, still: str) -> str | None:
    """The share of a token's time that migration saves, over the instances that both finished; None if none."""
    found = saving(own, moving, still)
    if found is None:
        return None
    spread = f" ({found.low:+.1%} to {found.high:+.1%})" if found.high - found.low > 1e-4 else ""
    return f"{found.value:+.1%}{spread}"


def saving(own: pd.DataFrame, moving: str, still: str) -> Mean | None:
    """1 − (with migration) / (without migration), paired."""
    with_, without = finished(own, moving).align(finished(own, still), join="inner")
    return mean_of((1 - with_ / without).tolist())


def _ended(runs: pd.DataFrame) -> int:
    return int((runs["status"] != DONE).sum())


def _measured_table(frame: pd.DataFrame) -> str:
    rows = []
    for policy in POLICIES:
        own = frame[frame["policy"] == policy]
        if len(own):
            done = own[own["status"] == DONE]
            rows.append([
                SHOWN[policy], len(own), int((own["status"] == "oom").sum()), f"{own['tokens_done'].mean():.0f}",
                _range(own["mean_token_ms"], 1), _range(done["mean_token_with_stall_ms"], 1),
                _range(done["stall_s"], 2), _range(done["migrations"].astype(float), 0),
                f"{int(own['verdict_ok'].astype(bool).sum())} of {len(own)}",
            ])  # fmt: skip
    headings = ["policy", "runs", "killed by the kernel", "tokens", "ms per token", "with stalls, ms", "stall, s",
                "blocks moved", "faithful"]  # fmt: skip
    return table(headings, rows)


def _range(values: pd.Series, digits: int) -> str | None:
    if not len(values):
        return None
    low, high = f"{values.min():.{digits}f}", f"{values.max():.{digits}f}"
    return low if low == high else f"{low} to {high}"


def draw(frame: pd.DataFrame) -> None:
    """Draw the finished share of runs (left) and the saved time (right), with a row for each trace."""
    from benchmarks.results.drawing import FULL_WIDTH, colour, drawn, marker

    simulated = frame[frame["backend"] == "sim"]
    places = [(trace, kind) for kind, traces in ((False, BUNDLED), (True, DRAWN)) for trace in traces]
    with drawn(NAME, FULL_WIDTH, 3.6, columns=2) as (figure, (reached, saved)):
        for shift, (moving, still) in zip((-0.17, 0.17), PAIRS, strict=True):
            style = {"marker": marker(moving), "markersize": 4, "color": colour(moving)}
            for place, (trace, kind) in enumerate(places):
                own = simulated[(simulated["trace"] == trace) & (simulated["drawn"] == kind)]
                if not {moving, still} <= set(own["policy"]):
                    continue  # not run yet
                shares = [_reached(own, policy) for policy in (still, moving)]
                y = place + shift
                reached.plot(shares, [y, y], linewidth=0.8, markevery=[1], **style)
                reached.plot(shares[:1], [y], fillstyle="none", **style)
                found = saving(own, moving, still)
                if found is None:
                    saved.text(0.2, y, "does not finish without", va="center", fontsize=6, color="#b2182b")
                    continue
                spread = [[100 * (found.value - found.low)], [100 * (found.high - found.value)]]
                saved.errorbar(100 * found.value, y, xerr=spread, linestyle="none", **style)
            saved.plot([], [], linestyle="none", label=f"{moving} against {SHOWN[still]}", **style)
        names = [f"{trace} (drawn)" if kind else trace for trace, kind in places]
        reached.set_yticks(range(len(places)), names)
        saved.set_yticks(range(len(places)), [""] * len(places))
        reached.set_xlabel("tokens generated (% of those asked for):\nhollow without, filled with migration")
        saved.set_xlabel("time per token saved by migration (%),\nstalls included")
        saved.axvline(0, color="#333333", linewidth=0.6)
        for axes in (reached, saved):
            axes.set_ylim(len(places) - 0.5, -0.5)
        figure.legend(*saved.get_legend_handles_labels(), loc="outside upper center", ncols=2)


def _reached(own: pd.DataFrame, policy: str) -> float:
    runs = own[own["policy"] == policy]
    return float(100 * (runs["tokens_done"] / runs["tokens_asked"]).mean())


if __name__ == "__main__":
    main()
