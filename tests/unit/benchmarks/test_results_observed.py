"""What is compared under `observation: measured`: every policy, every kill, and only files that stay where they are."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pandas as pd

from benchmarks.results import observed
from benchmarks.results.running import part_key


def row(
    group: str, trace: str, policy: str, shown: str, seed: int = 1, status: str = "done", **more: Any
) -> dict[str, Any]:
    return {
        "group": group, "trace": trace, "policy": policy, "shown": shown, "seed": seed, "status": status,
        "tokens_done": 96, "mean_token_with_stall_ms": 250.0 + seed, "migrations": 4, "wrong_moves": 1, **more,
    }  # fmt: skip


def test_every_policy_is_planned_under_every_trace_with_the_oracle_and_without() -> None:
    runs = observed.planned()
    assert len({part_key(one) for one in runs}) == len(runs)
    traces = Counter((one.said["group"], one.said["trace"]) for one in runs)
    assert len(traces) == 1 + len(observed.TRACES) + len(observed.RECORDED) + len(observed.SQUEEZES)
    for group, trace in traces:
        own = {
            (one.called, one.said["shown"]) for one in runs if (one.said["group"], one.said["trace"]) == (group, trace)
        }
        asked = {(name, shown) for name in observed.POLICIES[group] for shown in ("oracle", "measured")}
        assert own >= {one for one in asked if one[0] not in observed.MARGINS}


def test_what_nobody_announces_is_planned_without_grace() -> None:
    squeezed = [one for one in observed.planned() if one.said["group"] == observed.SQUEEZE]
    assert {one.settings["grace"] for one in squeezed} == {0}
    assert {one.load().ramp for one in squeezed} == {None, 2.0**20, 2.0**18}


def test_the_section_hides_no_kill() -> None:
    runs = [row(observed.BUNDLED, "t", "headroom", shown, seed) for shown in observed.SHOWN for seed in (1, 2)]
    runs += [row(observed.LOGGED, "r", "static", shown) for shown in observed.SHOWN]
    runs += [
        row(observed.SQUEEZE, "8 MiB", "static", shown, status="oom", tokens_done=48)
        for shown in ("oracle", "measured")
    ]
    runs += [row(observed.SQUEEZE, "8 MiB", "headroom", "measured", seed, "oom" if seed == 2 else "done",
                 tokens_done=56 if seed == 2 else 96) for seed in (1, 2, 3)]  # fmt: skip
    how = {
        "kind": "simulated",
        "command": "c",
        "date": "d",
        "commit": "x",
        "seconds": 60.0,
        "machine": "m",
        "notes": [],
    }
    text = observed.section(pd.DataFrame(runs), how)
    assert "| 8 MiB | static | 1/1, 1/1 | 48 | - | 4 | 1 |" in text
    assert "| 8 MiB | headroom | 1/3 | 56 | 252.0 | 4 | 1 |" in text
