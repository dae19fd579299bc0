"""How a run was simulated, for its manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from testbed.experiment.schema import Experiment

SIMULATED_NOTE = "simulated: no token was computed and no byte sent; every time is the cost model's"


def simulated_facts(
    experiment: Experiment, hop_overhead_s: float, busy_s: Mapping[str, float] | None
) -> dict[str, Any]:
    """What a simulated fleet tells of itself; `busy_s` are the devices' busy seconds where they were counted."""
    lossy = experiment.needs_netem
    notes = [SIMULATED_NOTE]
    if lossy:
        notes.append(f"link {lossy} has loss or jitter: delays are drawn for every message of a token")
    return {
        "backend": "sim",
        "provenance": "simulated",
        "rates": "the cost model's",
        "delay": "the cost model's",
        "memory": "simulated: the sum over each device's blocks, against its budget",
        "hop_overhead_s": hop_overhead_s,
        "notes": notes,
        **({} if busy_s is None else {"busy_s": busy_s}),
    }
