"""The simulated fleet beside the emulated one: the same observations, the same decisions, the same end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from running import UNJUDGED, Ended, Place, events, rows, topology, write_experiment

TRACE = """time,target,quantity,value
6,link/c,rate,2 Mbit/s
8,device/b,memory,{memory}
12,device/d,streaming,0.2 GB/s
16,link/c,rate,100 Mbit/s
"""


def squeezed(folder: Path, policy: str, memory: str = "160 KiB", **changes: Any) -> Path:
    """Twenty-four tokens of the tiny preset on devices that hold it just so, while b shrinks and c and d slow down."""
    (folder / "trace.csv").write_text(TRACE.format(memory=memory))
    return write_experiment(
        folder, name=f"squeezed-{policy}", tokens=24, compute="paced", policy=policy, traces=["trace.csv"],
        topology=topology(
            a={"memory": "640 KiB"}, b={"memory": "480 KiB"}, c={"memory": "480 KiB"}, d={"memory": "320 KiB"}
        ),
        **changes,
    )  # fmt: skip


def both(place: Place, path: Path) -> tuple[Ended, Ended]:
    """(emulated on the local backend, simulated)."""
    return place.replay(path, "--backend", "local", *UNJUDGED), place.replay(path, "--backend", "sim")


def told(folder: Path, table: str, *columns: str) -> list[tuple[Any, ...]]:
    return [tuple(row[column] for column in columns) for row in rows(folder, table)]


@pytest.mark.parametrize(
    ("policy", "partition"),
    [
        ("paper-search", {}),
        ("greedy", {}),
        ("round-robin", {}),
        ("headroom", {"ffn_shards": 4, "proj_rows": True, "vocab_shards": 4}),
        ("galaxy", {"ffn_shards": 8}),
        ("galaxy", {"ffn_shards": 8, "proj_rows": True, "exchange": "all-to-all"}),
        ("round-robin", {"ffn_shards": 4, "proj_rows": True, "exchange": "all-to-all"}),
        ("paper-search", {"ffn_shards": 4, "proj_rows": True, "vocab_shards": 4, "exchange": "all-to-all"}),
    ],
)
def test_simulation_and_emulation_decide_alike(
    place: Place, tmp_path: Path, policy: str, partition: dict[str, object]
) -> None:
    emulated, simulated = both(place, squeezed(tmp_path, policy, partition=partition))
    assert (emulated.code, simulated.code) == (0, 0), emulated.err + simulated.err
    one, other = emulated.folder, simulated.folder
    decided = ("epoch", "step", "moved", "feasible", "reason", "predicted_before_s", "predicted_after_s")
    assert told(one, "decisions", *decided) == told(other, "decisions", *decided)
    placed = ("epoch", "step", "block", "device")
    assert told(one, "placements", *placed) == told(other, "placements", *placed)
    moved = ("epoch", "block", "src", "dst", "bytes", "outcome", "weights_bytes_loaded")
    assert sorted(told(one, "migrations", *moved)) == sorted(told(other, "migrations", *moved))
    assert told(one, "tokens", "step", "epoch", "wire_bytes") == told(other, "tokens", "step", "epoch", "wire_bytes")
    assert rows(one, "migrations"), "the trace must have made it move"
    changed = [(event["step"], event["target"], event["value"]) for event in events(one, "memory_enforced")]
    assert changed == [(event["step"], event["target"], event["value"]) for event in events(other, "memory_enforced")]


def test_simulation_and_emulation_run_out_of_memory_alike(place: Place, tmp_path: Path) -> None:
    placement = {"*": "a", "head(*,0)": "b", "head(*,1)": "c", "ffn(1)": "b", "ffn(2)": "c", "ffn(3)": "d"}
    path = squeezed(tmp_path, "static", memory="60 KiB", placement=placement)
    emulated, simulated = both(place, path)
    assert (emulated.code, simulated.code) == (5, 5)
    assert emulated.summary["status"] == simulated.summary["status"] == "oom"
    assert emulated.summary["error"] == simulated.summary["error"]
    assert len(emulated.summary["tokens"]) == len(simulated.summary["tokens"]) == 8


def test_the_predictions_of_an_emulated_run_are_the_simulated_tokens(place: Place, tmp_path: Path) -> None:
    path = squeezed(tmp_path, "paper-search")
    emulated, simulated = both(place, path)
    predicted = [latency for (latency,) in told(emulated.folder, "tokens", "predicted_s")]
    assert predicted == pytest.approx([latency for (latency,) in told(simulated.folder, "tokens", "latency_s")])
