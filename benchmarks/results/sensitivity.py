"""Measures how results depend on the software's time per hop and on λ, the number of tokens between two decisions.

`python -m benchmarks.results.sensitivity` simulates drawn instances of a GPT-2 on four devices whose links, speeds and
memory fluctuate, and changes one of the two at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from benchmarks.results import store
from benchmarks.results.paired import DONE, Mean, counted, finished, named, prose, ratio, table
from benchmarks.results.running import Planned, collect_runs, found_rows, missing

NAME = "sensitivity"
BASE = "headroom"
HOPS_MS = (0.0, 0.1, 0.2, 0.5, 1.0)
INTERVALS = (1, 2, 4, 8, 16, 32, 64)
FLEET = {"generate": "paper", "devices": 4, "memory": "1.4 x model", "streaming": "1.5 GB/s"}
TRACES = [
    {"generate": "fluctuation", "target": "link/*"}, {"generate": "fluctuation", "target": "device/*"},
    {"generate": "fluctuation", "target": "device/*", "quantity": "memory", "spread": 0.1, "least": 0.8},
]  # fmt: skip
HOP_MS, INTERVAL = 0.1, 8  # the value of one while the other changes
SEEDS = range(1, 5)
POLICIES = (
    "headroom", "paper-search", "greedy", "round-robin", "edgeshard", "layerwise", "galaxy", "tensor-parallel",
)  # fmt: skip
PARTITION = {"ffn_shards": 4}  # so that policies that distribute an FFN can


def planned() -> list[Planned]:
    """All runs, seed by seed."""
    cases = [(hop_ms, INTERVAL) for hop_ms in HOPS_MS]
    cases += [(HOP_MS, interval) for interval in INTERVALS if interval != INTERVAL]
    return [
        Planned(
            "gpt2-star4.yaml",
            policy,
            seed,
            {
                "topology": FLEET,
                "traces": TRACES,
                "partition": PARTITION,
                "interval": interval,
                "tokens": 128,
            },
            {"hop_ms": hop_ms, "interval": interval},
            hop_ms * 1e-3,
        )
        for seed in SEEDS
        for hop_ms, interval in cases
        for policy in POLICIES
    ]


def main() -> None:
    """Simulate the missing runs and save the table."""
    options = store.arguments(NAME, __doc__).parse_args()
    parts, runs = store.Parts(options.parts), planned()
    collect_runs(parts, runs, NAME, options.seconds)
    seeds = complete(parts, runs)
    if not seeds:
        return
    frame = pd.DataFrame(found_rows(parts, [one for one in runs if one.seed in seeds]))
    store.save(NAME, frame, store.how_obtained(
        f"python -m benchmarks.results.{NAME}", "simulated", parts.seconds(), sorted(seeds),
        commit=parts.commits(), runs_missing=missing(parts, runs),
    ))  # fmt: skip


def complete(parts: store.Parts, runs: Sequence[Planned]) -> set[int]:
    """The seeds that have all their runs."""
    return {one.seed for one in runs} - {one.seed for one in runs if missing(parts, [one])}


# --- the page --------------------------------------------------------------------------------------------------


def section(frame: pd.DataFrame, how: store.How) -> str:
    """The section of the page on sensitivity."""
    from benchmarks.results.drawing import image

    hops = frame[frame["interval"] == INTERVAL]
    intervals = frame[frame["hop_ms"] == HOP_MS]
    by_hop, by_interval = _ratios(hops, "hop_ms"), _ratios(intervals, "interval")
    draw(by_hop, by_interval)
    text = [
        "## Sensitivity: what does the answer depend on?",
        prose(f"""Drawn instances of a GPT-2 on four devices with links, speeds and memory that fluctuate, FFNs
            in {PARTITION["ffn_shards"]} shards, {frame["tokens_asked"].iloc[0]} tokens;
            {counted(len(how["seeds"]), "instance")}. Fastest over the times per hop: {_winners(by_hop)}; over λ:
            {_winners(by_interval)}."""),
        image(NAME, "A token's time over headroom's, by the software's time per hop and by λ"),
        f"By time per hop, at λ = {INTERVAL}:",
        _table(hops, by_hop, "hop_ms", "{:g} ms"),
        f"By λ, at {HOP_MS:g} ms per hop:",
        _table(intervals, by_interval, "interval", "{:g}"),
        prose("""Cells are the time of a token with its share of stalls: in milliseconds for headroom, as the mean
            difference from headroom on the same instances for the others (with a 95 % bootstrap interval where there
            is one), then how many of the runs finished, if not all did. Deciding is not charged. In the figure
            coinciding points are drawn a little apart, so that no interval hides another."""),
        store.obtained(how),
    ]  # fmt: skip
    return "\n\n".join(text)


def _ratios(frame: pd.DataFrame, key: str) -> dict[str, dict[float, Mean | None]]:
    """The ratio to headroom over the instances that both finished, by policy and by value of the key."""
    return {policy: {value: ratio(own, policy, BASE) for value, own in frame.groupby(key)} for policy in POLICIES}


def _winning(ratios: dict[str, dict[float, Mean | None]]) -> list[str]:
    """The policies that are fastest for some value, in the order of POLICIES."""
    best = set()
    for value in ratios[BASE]:
        known = {policy: found.value for policy in POLICIES if (found := ratios[policy][value]) is not None}
        best.add(min(known, key=lambda policy: known[policy]))
    return [policy for policy in POLICIES if policy in best]


def _winners(ratios: dict[str, dict[float, Mean | None]]) -> str:
    return named(_winning(ratios))


def _table(frame: pd.DataFrame, ratios: dict[str, dict[float, Mean | None]], key: str, shown: str) -> str:
    values = sorted(frame[key].unique())
    rows = []
    for policy in POLICIES:
        cells = []
        for value in values:
            own = frame[(frame[key] == value) & (frame["policy"] == policy)]
            done, mean = int((own["status"] == DONE).sum()), ratios[policy][value]
            text = "-" if mean is None else f"{mean.value - 1:+.1%}"
            if policy == BASE and done:
                text = f"{finished(own, policy).mean():.1f} ms"
            cells.append(text + (f", {done} of {len(own)}" if done < len(own) else ""))
        rows.append([policy, *cells])
    return table(["policy", *(shown.format(value) for value in values)], rows)


def draw(by_hop: dict[str, dict[float, Mean | None]], by_interval: dict[str, dict[float, Mean | None]]) -> None:
    """Draw two panels with a line for each policy."""
    from benchmarks.results.drawing import FULL_WIDTH, colour, drawn, marker

    with drawn(NAME, FULL_WIDTH, 2.8, columns=2) as (figure, panels):
        for axes, ratios in zip(panels, (by_hop, by_interval), strict=True):
            for number, (policy, found) in enumerate(ratios.items()):
                aside = number - (len(ratios) - 1) / 2  # this keeps the intervals apart
                points = [(value, mean) for value, mean in found.items() if mean is not None]
                values = [value for value, _ in points]
                places = [x * 2 ** (aside / 12) if axes is panels[1] else x + aside / 130 for x in values]
                middle = [mean.value for _, mean in points]
                spread = [[mean.value - mean.low for _, mean in points], [mean.high - mean.value for _, mean in points]]
                axes.errorbar(
                    places, middle, spread, color=colour(policy), marker=marker(policy), markersize=3.5,
                    elinewidth=0.6, label=policy,
                )  # fmt: skip
            axes.set_ylabel("time per token over headroom's")
        panels[0].set_xlabel("software's time per hop (ms)")
        panels[1].set_xscale("log", base=2)
        panels[1].set_xticks(INTERVALS, [str(interval) for interval in INTERVALS])
        panels[1].set_xlabel("λ (tokens between two decisions)")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)


if __name__ == "__main__":
    main()
