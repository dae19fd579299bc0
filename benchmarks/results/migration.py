"""What migration is worth: policies with it, and the same ones that keep their first placement.

`python -m benchmarks.results.migration` simulates the quick start's devices under each bundled trace, and drawn
instances under seeded fluctuations and events. `--emulated` adds emulated runs of the quick start (root, a quiet host).
"""

from __future__ import annotations

import time
from typing import Any

import pandas as pd

from benchmarks.results import store
from benchmarks.results.running import NOMINAL_NOTE, Planned, collect_runs, found_rows, missing, part_key, run
from testbed.calibration import NOMINAL_HOP_S

NAME = "migration"
FROZEN = "benchmarks/results/frozen.py"
POLICIES = ("headroom", f"{FROZEN}:HeadroomFrozen", "resource-aware", f"{FROZEN}:ResourceAwareFrozen", "static")
BUNDLED: dict[str, dict[str, Any]] = {
    "no trace": {"traces": []},
    "quick start": {},
    "link-collapse": {"traces": ["traces/data/link-collapse.csv"]},
    "memory-squeeze": {"traces": ["traces/data/memory-squeeze.csv"]},
    "cpu-contention": {"traces": ["traces/data/cpu-contention.csv"]},
    "cellular-walk": {"traces": ["traces/data/cellular-walk.csv"]},
    # The outage comes after 30 seconds, so on the time clock and with more tokens.
    "outage": {"traces": ["traces/data/outage.csv"], "trace_clock": "time", "tokens": 160},
}
BUNDLED_SEEDS = range(1, 4)  # the instance is always the same; only headroom's search draws anything
DRAWN_FLEET = {"generate": "paper", "devices": 4, "memory": "1.4 x model", "streaming": "1.5 GB/s"}
_MEMORY = {"generate": "fluctuation", "target": "device/*", "quantity": "memory", "spread": 0.1, "least": 0.8}
DRAWN: dict[str, list[dict[str, Any]]] = {
    "links fluctuate": [{"generate": "fluctuation", "target": "link/*"}],
    "memory fluctuates": [_MEMORY],
    "all fluctuate": [
        {"generate": "fluctuation", "target": "link/*"}, {"generate": "fluctuation", "target": "device/*"}, _MEMORY,
    ],
}  # fmt: skip
DRAWN_SEEDS = range(1, 11)
EMULATED_ROUNDS = 3


def planned() -> list[Planned]:
    """Every simulated run; of drawn instances the seeds vary slowest."""
    bundled = [
        Planned("quickstart.yaml", policy, seed, settings, _said(trace), NOMINAL_HOP_S)
        for trace, settings in BUNDLED.items()
        for policy in POLICIES
        for seed in BUNDLED_SEEDS
    ]
    drawn = [
        Planned(
            "quickstart.yaml", policy, seed, {"topology": DRAWN_FLEET, "traces": traces}, _said(trace, drawn=True),
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
    """The quick start's runs on Mininet, the rounds slowest."""
    return [
        Planned("quickstart.yaml", policy, seed, {}, _said("quick start", backend="mininet"))
        for seed in range(1, EMULATED_ROUNDS + 1)
        for policy in POLICIES
    ]


def main() -> None:
    """Simulate, and emulate if asked to, what is missing; save the table."""
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
    """Emulate what is missing, until the time is up."""
    started = time.monotonic()
    for one in emulated():
        if parts.find(part_key(one)) is None:
            begun = time.monotonic()
            if stop_after_s is not None and begun - started > stop_after_s:
                return
            row = run(one, "mininet", parts.folder / "runs")
            parts.put(part_key(one), [row], time.monotonic() - begun)


def save(parts: store.Parts) -> None:
    """Write the table from the parts that are there."""
    runs = [*planned(), *emulated()]
    frame = pd.DataFrame(found_rows(parts, runs))
    command = f"python -m benchmarks.results.{NAME}"
    store.save(NAME, frame, store.how_obtained(
        f"{command}` and `sudo .venv/bin/{command} --emulated", "simulated and emulated", parts.seconds(),
        sorted(frame["seed"].unique().tolist()), [NOMINAL_NOTE], runs_missing=missing(parts, runs),
    ))  # fmt: skip


if __name__ == "__main__":
    main()
