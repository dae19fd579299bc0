"""What the answer depends on: the software's time per hop, and λ, how many tokens lie between two decisions.

`python -m benchmarks.results.sensitivity` simulates drawn instances of a GPT-2 on four devices whose links, speeds and
memory fluctuate, changing one of the two at a time.
"""

from __future__ import annotations

import pandas as pd

from benchmarks.results import store
from benchmarks.results.migration import DRAWN, DRAWN_FLEET
from benchmarks.results.running import Planned, collect_runs, found_rows, missing

NAME = "sensitivity"
HOPS_MS = (0.0, 0.1, 0.2, 0.5, 1.0)
INTERVALS = (1, 2, 4, 8, 16, 32, 64)
HOP_MS, INTERVAL = 0.1, 8  # the other one's value while one is changed
SEEDS = range(1, 6)
POLICIES = (
    "headroom", "resource-aware", "layerwise", "edgeshard", "galaxy", "tensor-parallel", "round-robin", "greedy",
)  # fmt: skip
PARTITION = {"ffn_shards": 4}  # so that those who share an FFN out can


def planned() -> list[Planned]:
    """Every run, each seed's after those of the seed before."""
    cases = [(hop_ms, INTERVAL) for hop_ms in HOPS_MS]
    cases += [(HOP_MS, interval) for interval in INTERVALS if interval != INTERVAL]
    return [
        Planned(
            "quickstart.yaml",
            policy,
            seed,
            {
                "topology": DRAWN_FLEET,
                "traces": DRAWN["all fluctuate"],
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
    """Simulate what is missing and save the table."""
    options = store.arguments(NAME, __doc__).parse_args()
    parts, runs = store.Parts(options.parts), planned()
    collect_runs(parts, runs, NAME, options.seconds)
    frame = pd.DataFrame(found_rows(parts, runs))
    store.save(NAME, frame, store.how_obtained(
        f"python -m benchmarks.results.{NAME}", "simulated", parts.seconds(), sorted(frame["seed"].unique().tolist()),
        runs_missing=missing(parts, runs),
    ))  # fmt: skip


if __name__ == "__main__":
    main()
