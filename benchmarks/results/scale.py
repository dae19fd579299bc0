"""Compares policies with 25 devices and 1000 tokens: their speed, their OOM kills, and how full devices get.

`python -m benchmarks.results.scale` simulates experiments/medium-scale.yaml under every policy, in its own memory and
in more, and with the FFNs whole and in shards; each seed is another instance.
"""

from __future__ import annotations

import math

import pandas as pd

from benchmarks.results import store
from benchmarks.results.paired import DONE, finished, prose, ratio, table
from benchmarks.results.running import NOMINAL_NOTE, Planned, collect_runs, found_rows, missing
from testbed.controller.calibration import NOMINAL_HOP_S

NAME = "scale"
BASE = "headroom"
SAID = ("memory", "ffn_shards")
EXPERIMENT = "medium-scale.yaml"
RIGHTMOST = 1.8  # the largest ratio in the figure
SHARDED = 4
TIGHT, ROOMY = "1.4 x model", "4 x model"  # the experiment's own memory, and enough for whole layers on each device
CASES = {(TIGHT, 1): 20, (TIGHT, SHARDED): 5, (ROOMY, 1): 20, (ROOMY, SHARDED): 5}  # (memory, FFN shards): instances
POLICIES = (
    "headroom", "paper-search", "greedy", "dynamic-threshold", "static", "round-robin", "single", "edgeshard",
    "layerwise", "galaxy", "tensor-parallel",
)  # fmt: skip


def planned() -> list[Planned]:
    """All runs; the seeds vary slowest, so that an unfinished collection is a fair sample."""
    return [
        Planned(EXPERIMENT, policy, seed, _settings(*case), dict(zip(SAID, case, strict=True)), NOMINAL_HOP_S)
        for seed in range(1, 1 + max(CASES.values()))
        for case, instances in CASES.items()
        if seed <= instances
        for policy in POLICIES
    ]


def _settings(memory: str, shards: int) -> dict[str, object]:
    return {
        **({"topology.memory": memory} if memory != TIGHT else {}),
        **({"partition.ffn_shards": shards} if shards > 1 else {}),
    }


def main() -> None:
    """Simulate the missing runs and save the table."""
    options = store.arguments(NAME, __doc__).parse_args()
    parts, runs = store.Parts(options.parts), planned()
    collect_runs(parts, runs, NAME, options.seconds)
    frame = pd.DataFrame(found_rows(parts, runs))
    store.save(NAME, frame, store.how_obtained(
        f"python -m benchmarks.results.{NAME}", "simulated", parts.seconds(), sorted(frame["seed"].unique().tolist()),
        [NOMINAL_NOTE], commit=parts.commits(), runs_missing=missing(parts, runs),
    ))  # fmt: skip


# --- the page --------------------------------------------------------------------------------------------------


def section(frame: pd.DataFrame, how: store.How) -> str:
    """The section of the page on 25 devices."""
    from benchmarks.results.drawing import image

    draw(frame)
    text = [
        "## Scale: 25 devices, 1000 tokens",
        prose(f"""`experiments/medium-scale.yaml`: a GPT-2 on 25 devices, λ = 16; links, speeds and free memory
            fluctuate; every seed is another instance. With the memory of that file ({TIGHT}: all devices together have
            1.4 times what the model needs at the end) whole layers fit on few devices. So it was also run with
            {ROOMY}, and each with whole FFNs and with FFNs in {SHARDED} shards."""),
        *(_case(frame, case) for case in CASES),
        image(NAME, "A token's time over headroom's for each policy, in the four settings"),
        prose("""*Time* is the time of a token with its share of stalls, as the mean over the instances that the policy
            finished. *Against headroom* is the mean of the ratio over the instances that both finished, with its 95 %
            bootstrap interval. *Refused* are runs whose policy found no placement that fits, *out of memory* those in
            which a device exceeded its budget; *tokens* is the mean number of generated tokens. *Fullest device*: the
            largest share of its budget that any device used at any time, as the mean over runs; a run ends when it
            exceeds 100 %. In the figure *8 of 20* means that only 8 instances could be compared. Deciding is not
            charged; its times are rough, because they were measured on a busy host. Unlike in *migration's worth*,
            `static` keeps no memory free here. No claim rests on cases with 5 instances."""),
        store.obtained(how),
    ]  # fmt: skip
    return "\n\n".join(text)


def _fullest(own: pd.DataFrame, policy: str) -> float:
    """The largest share of its budget that any device used, as the mean over a policy's runs."""
    return float(own.loc[own["policy"] == policy, "most_memory_share"].mean())


def _title(case: tuple[str, int]) -> str:
    return f"{case[0]}, " + ("whole FFNs" if case[1] == 1 else f"{case[1]} FFN shards")


def of_case(frame: pd.DataFrame, case: tuple[str, int]) -> pd.DataFrame:
    """The runs of one setting."""
    return frame[(frame["memory"] == case[0]) & (frame["ffn_shards"] == case[1])]


def _case(frame: pd.DataFrame, case: tuple[str, int]) -> str:
    own = of_case(frame, case)
    rows = [_row(own, policy) for policy in POLICIES if (own["policy"] == policy).any()]
    headings = ["policy", "runs", "refused", "out of memory", "tokens", "time, ms", "against headroom",
                "over runs", "fullest device", "deciding, s"]  # fmt: skip
    return f"**Memory {_title(case)}.**\n\n" + table(headings, rows)


def _row(own: pd.DataFrame, policy: str) -> list[object]:
    runs = own[own["policy"] == policy]
    done = runs[runs["status"] == DONE]
    against = ratio(own, policy, BASE)
    fullest = _fullest(own, policy)
    return [
        policy, len(runs), int((runs["error_kind"] == "Infeasible").sum()), int((runs["status"] == "oom").sum()),
        f"{runs['tokens_done'].mean():.0f}",
        f"{finished(own, policy).mean():.1f}" if len(done) else None,
        None if against is None or policy == BASE else against.percent(),
        None if against is None or policy == BASE else against.count,
        None if math.isnan(fullest) else f"{fullest:.1%}",
        f"{done['decision_ms'].mean() / 1e3:.1f}" if len(done) else None,
    ]  # fmt: skip


def draw(frame: pd.DataFrame) -> None:
    """Draw a panel for each setting with a line for each policy: its ratio to headroom, or that it finished no run."""
    from benchmarks.results.drawing import FULL_WIDTH, colour, drawn, marker

    shown = [policy for policy in POLICIES if policy != BASE]
    with drawn(NAME, FULL_WIDTH, 2.9, columns=len(CASES)) as (figure, panels):
        for axes, case in zip(panels, CASES, strict=True):
            own = of_case(frame, case)
            for place, policy in enumerate(shown):
                found, runs = ratio(own, policy, BASE), own[own["policy"] == policy]
                if found is None:
                    why = "out of memory" if (runs["status"] == "oom").any() else "nothing fits"
                    both_run = len(runs) and (own["policy"] == BASE).any()
                    axes.text(1.02, place, why if both_run else "not run", va="center", fontsize=6, color="#b2182b")
                    continue
                spread = [[found.value - found.low], [found.high - found.value]]
                axes.errorbar(found.value, place, xerr=spread, fmt=marker(policy), color=colour(policy), markersize=4)
                if found.count < len(runs):
                    few, at = f"{found.count} of {len(runs)}", (found.high, place)
                    axes.annotate(few, at, (5, 0), textcoords="offset points", va="center", fontsize=6, color="#555555")
            axes.axvline(1, color="#333333", linewidth=0.8)
            axes.set_yticks(range(len(shown)), shown if axes is panels[0] else [""] * len(shown))
            axes.set_ylim(len(shown) - 0.5, -0.5)
            axes.set_xlim(0.95, RIGHTMOST)
            axes.set_title("memory " + _title(case).replace(", ", "\n"))
        figure.supxlabel("time per token over headroom's", fontsize=8)


if __name__ == "__main__":
    main()
