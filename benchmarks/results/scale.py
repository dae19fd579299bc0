"""The larger setting: 25 devices, 1000 tokens. Who is fast, who runs out of memory, and how full devices get.

`python -m benchmarks.results.scale` simulates experiments/medium-scale.yaml under every policy, in its own memory and
in more, and with the FFNs whole and in shards; each seed is another instance.
"""

from __future__ import annotations

import pandas as pd

from benchmarks.results import store
from benchmarks.results.running import NOMINAL_NOTE, Planned, collect_runs, found_rows, missing
from testbed.calibration import NOMINAL_HOP_S

NAME = "scale"
SAID = ("memory", "ffn_shards")
EXPERIMENT = "medium-scale.yaml"
TIGHT, ROOMY = "1.4 x model", "4 x model"  # the experiment's own memory, and one where devices hold whole layers
# (memory, FFN shards) -> instances; of resource-aware, which decides for half a minute; of rivals that decide slowly too
SEEDS = {(TIGHT, 1): (20, 10, 3), (TIGHT, 4): (5, 2, 1), (ROOMY, 1): (5, 2, 1), (ROOMY, 4): (3, 2, 1)}
POLICIES = (
    "headroom", "edgeshard", "galaxy", "layerwise", "round-robin", "tensor-parallel", "single", "resource-aware",
    "static", "dynamic-threshold", "greedy",
)  # fmt: skip


def seeds_of(case: tuple[str, int], policy: str) -> int:
    """How many instances of a case a policy runs on, the first ones."""
    most, slow, slower = SEEDS[case]
    return {"resource-aware": slow, "static": slower, "dynamic-threshold": slower, "greedy": slower}.get(policy, most)


def planned() -> list[Planned]:
    """Every run; seeds vary slowest, so that a collection cut short is a fair sample."""
    return [
        Planned(EXPERIMENT, policy, seed, _settings(*case), dict(zip(SAID, case, strict=True)), NOMINAL_HOP_S)
        for seed in range(1, 1 + max(counts[0] for counts in SEEDS.values()))
        for case in SEEDS
        for policy in POLICIES
        if seed <= seeds_of(case, policy)
    ]


def _settings(memory: str, shards: int) -> dict[str, object]:
    return {
        **({"topology.memory": memory} if memory != TIGHT else {}),
        **({"partition.ffn_shards": shards} if shards > 1 else {}),
    }


def main() -> None:
    """Simulate what is missing and save the table."""
    options = store.arguments(NAME, __doc__).parse_args()
    parts, runs = store.Parts(options.parts), planned()
    collect_runs(parts, runs, NAME, options.seconds)
    frame = pd.DataFrame(found_rows(parts, runs))
    store.save(NAME, frame, store.how_obtained(
        f"python -m benchmarks.results.{NAME}", "simulated", parts.seconds(), sorted(frame["seed"].unique().tolist()),
        [NOMINAL_NOTE], runs_missing=missing(parts, runs),
    ))  # fmt: skip


if __name__ == "__main__":
    main()
