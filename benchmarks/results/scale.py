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
SEEDS = {(TIGHT, 1): 20, (TIGHT, 4): 10, (ROOMY, 1): 10, (ROOMY, 4): 5}  # (memory, FFN shards) -> instances
FEW_SEEDS = 3  # of what decides slowly or matters less
POLICIES = ("headroom", "edgeshard", "galaxy", "layerwise", "round-robin", "tensor-parallel", "resource-aware",
            "single", "static", "dynamic-threshold", "greedy")  # fmt: skip
FEW = {(TIGHT, 4, "resource-aware"), (ROOMY, 1, "resource-aware"), (ROOMY, 4, "resource-aware")} | {
    (*case, policy) for case in SEEDS for policy in ("greedy", "dynamic-threshold", "static")
}


def planned() -> list[Planned]:
    """Every run; seeds vary slowest, so that a collection cut short is a fair sample."""
    return [
        Planned(EXPERIMENT, policy, seed, _settings(*case), dict(zip(SAID, case, strict=True)), NOMINAL_HOP_S)
        for seed in range(1, max(SEEDS.values()) + 1)
        for case, seeds in SEEDS.items()
        for policy in POLICIES
        if seed <= (FEW_SEEDS if (*case, policy) in FEW else seeds)
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
