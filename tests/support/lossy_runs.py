"""Runs of GPT-2 whose heads are on three devices, of which one dies, with and without replicas of caches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from running import Ended, rows, topology, write_experiment

THIRDS = """
from testbed.placement.blocks import Placement, blocks_of


class Thirds:
    '''Spreads heads over b, c and d as far as they live, and leaves all blocks that are on the living.'''

    name = "thirds"

    def reset(self, seed):
        pass

    def decide(self, observation, placement):
        poor = {view.name for view in observation.devices if not view.available_bytes}
        if placement is not None and not poor & set(placement.devices.values()):
            return placement
        homes = [name for name in "bcd" if name not in poor]
        blocks = dict.fromkeys(blocks_of(observation.shape), "a")
        return Placement(blocks | {b: homes[b.index % len(homes)] for b in blocks if b.kind == "head"})


class Turning(Thirds):
    '''After a loss, puts each head on the living device after the one that it would be left on.'''

    name = "turning"

    def decide(self, observation, placement):
        homes = [view.name for view in observation.devices if view.available_bytes and view.name != "a"]
        if placement is None or len(homes) == 3:
            return super().decide(observation, placement)
        heads = [block for block in placement.devices if block.kind == "head"]
        return placement.with_moves((head, homes[(head.index + 1) % len(homes)]) for head in heads)
"""


def losing(
    folder: Path, method: str, *, prompt: int, tokens: int, dies_at: int, layers: int, policy: str = "Thirds",
    vocab: int = 50257, streaming: str = "1.5 GB/s",
) -> Path:  # fmt: skip
    """Device b dies at a token. `policy` Turning moves heads away from their replicas."""
    (folder / "thirds.py").write_text(THIRDS)
    (folder / "kill.csv").write_text(f"time,target,quantity,value\n{dies_at},device/b,kill,1\n")
    device = {"memory": "512 MiB", "streaming": streaming, "storage": "90 MB/s"}
    return write_experiment(
        folder,
        name=method,
        model={"preset": "gpt2", "layers": layers, "vocab": vocab, "seed": 7},
        prompt={"ids": [(7 * i + i // 64) % 1000 for i in range(prompt)]},
        tokens=tokens,
        interval=8,
        policy=f"{folder / 'thirds.py'}:{policy}",
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
