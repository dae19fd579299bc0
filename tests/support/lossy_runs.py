"""Runs of GPT-2 whose heads are on three devices, of which one dies, with and without replicas of caches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from running import Ended, rows, topology, write_experiment

POLICIES = Path(__file__).parent / "thirds.py"


def losing(
    folder: Path, method: str, *, prompt: int, tokens: int, dies_at: int, layers: int, policy: str = "Thirds",
    vocab: int = 50257, streaming: str = "1.5 GB/s",
) -> Path:  # fmt: skip
    """Device b dies at a token. `policy` Turning moves heads away from their replicas."""
    (folder / "kill.csv").write_text(f"time,target,quantity,value\n{dies_at},device/b,kill,1\n")
    device = {"memory": "512 MiB", "streaming": streaming, "storage": "90 MB/s"}
    return write_experiment(
        folder,
        name=method,
        model={"preset": "gpt2", "layers": layers, "vocab": vocab, "seed": 7},
        prompt={"ids": [(7 * i + i // 64) % 1000 for i in range(prompt)]},
        tokens=tokens,
        interval=8,
        policy=f"{POLICIES}:{policy}",
        prefill_chunk=250,
        recovery={"method": method},
        compute="paced",
        traces=["kill.csv"],
        topology=topology(a=device | {"memory": "1 GiB"}, b=device, c=device, d=device),
    )


def recovery(run: Ended) -> dict[str, Any]:
    """The run's only recovery."""
    (row,) = rows(run.folder, "recoveries")
    return dict(row)


def recovered_s(row: dict[str, Any]) -> float:
    """From the decision to whole caches: what is loaded, and what is recomputed."""
    return float(row["rebuilt_s"] - row["decided_s"])
