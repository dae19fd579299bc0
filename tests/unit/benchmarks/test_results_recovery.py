"""What the results say of recoveries: every method beside the other, and runs that failed are not hidden."""

from __future__ import annotations

from typing import Any

import pandas as pd

from benchmarks.results import recovery
from benchmarks.results.running import part_key


def test_every_method_is_planned_in_every_cell_and_each_run_loads() -> None:
    runs = [*recovery.planned(), *recovery.emulated()]
    assert len({part_key(one) for one in runs}) == len(runs)
    for group, methods, policies in (("loss", recovery.METHODS, 2), ("move", recovery.WAYS, 1)):
        own = [one for one in runs if one.said["group"] == group and one.said["backend"] == "sim"]
        assert len(own) == len(recovery.CONTEXTS) * len(recovery.RATES) * len(methods) * policies
    for one in (runs[0], runs[-1]):
        loaded = one.load()
        assert len(loaded.prompt.ids or ()) == one.said["context"] and loaded.tokens == recovery.TOKENS


def row(group: str, method: str, status: str = "done", **more: Any) -> dict[str, Any]:
    return {
        "backend": "sim", "group": group, "method": method, "context": 64, "rate": "50 Mbit/s", "policy": "greedy",
        "seed": 1, "status": status, "downtime_s": 2.0, "stall_s": 1.0, "mean_token_with_stall_ms": 300.0,
        "kept_rows": 60, **more,
    }  # fmt: skip


def test_the_section_compares_methods_and_hides_no_failure() -> None:
    runs = [row("loss", "recompute"), row("loss", "replicate", "oom"), row("move", "stop"), row("move", "live")]
    how = {
        "kind": "simulated", "command": "c", "date": "d", "commit": "x", "seconds": 60.0, "machine": "m", "notes": [],
    }  # fmt: skip
    runs += [row("loss", "recompute", context=900), row("loss", "replicate", context=900, downtime_s=0.5)]
    runs += [row("loss", "recompute", context=512), row("loss", "replicate", context=512, downtime_s=1.9)]
    text = recovery.section(pd.DataFrame(runs), how)
    assert (
        "In 1 of 2 simulated cells" in text
        and "in the median to 0.25 of what it was; not for greedy at 512 tokens" in text
    )
    assert "| greedy | sim | 64 | 50 Mbit/s | 2 | oom | 300 | oom | oom |" in text
    assert "| greedy | sim | 64 | 50 Mbit/s | 1 | 1 | 300 | 300 |" in text
