"""What decisions cost, against those of another checkout, on drawn instances.

`python -m benchmarks.decisions FOLDER` draws stars that differ in devices, layers, partition, memory and links. On
each, a policy of this checkout and the same one of the other make some decisions under conditions that change in
between, and go on from their own placements. The cost of an instance is the sum of its intervals, migrations included,
by this checkout's cost model. A ratio below 1 means that this checkout decides better. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.against import PRESETS, ROOT, Decider, observed
from testbed.placement.blocks import Partition, Placement, blocks_of, parse_block, pinned_bytes, resident_bytes
from testbed.placement.cost.memory import shortages
from testbed.placement.cost.model import interval_cost

POLICIES = {"resource-aware": (3, 4, 5, 8, 12, 16, 25), "headroom": (3, 5, 8, 16, 25, 60, 200)}  # devices drawn from
DECISIONS = 4
PROMPT, TOKENS, INTERVAL = 64, 640, 16


def drawn(number: int, devices_from: tuple[int, ...]) -> list[dict[str, Any]]:
    """What the policy sees at each decision on one instance, in plain values."""
    chance = random.Random(f"decisions/{number}")
    devices = chance.choice(devices_from)
    shape = replace(PRESETS["gpt2"], layers=chance.choice((2, 4, 8, 12)))
    shards = chance.choice((1, 1, 4))
    partition = Partition(ffn_shards=shards, proj_rows=shards > 1 and chance.random() < 0.5)
    sizes = [resident_bytes(shape, block, PROMPT + TOKENS, partition) for block in blocks_of(shape, partition)]
    tightness = chance.choice((1.3, 1.6, 2.5, 5.0))
    parts = [chance.lognormvariate(0, 0.4) for _ in range(devices)]
    memory = [max(tightness * sum(sizes) * part / sum(parts), 1.1 * max(sizes)) for part in parts]
    memory[0] += pinned_bytes(shape, partition)
    streaming = [chance.lognormvariate(22.5, 0.5) for _ in range(devices)]
    rates = [chance.lognormvariate(chance.choice((17.0, 19.0, 20.5)), 0.5) for _ in range(devices)]
    delays = [chance.lognormvariate(-7.6, 0.5) for _ in range(devices)]
    seen = []
    for decision in range(DECISIONS):
        if decision:
            rates = [rate * chance.lognormvariate(0, 0.4) for rate in rates]
            streaming = [rate * chance.lognormvariate(0, 0.1) for rate in streaming]
            if chance.random() < 0.3:
                memory[chance.randrange(1, devices)] *= 0.9
        views = [
            {
                "name": f"d{one}", "available_bytes": int(memory[one]), "streaming_Bps": streaming[one],
                "compute_flops": 4 * streaming[one], "storage_Bps": 9e7,
            }
            for one in range(devices)
        ]  # fmt: skip
        links = {
            f"d{one}": {
                "up_bps": rates[one], "down_bps": rates[one], "up_delay_s": delays[one], "down_delay_s": delays[one],
            }
            for one in range(devices)
        }  # fmt: skip
        seen.append(
            {
                "shape": "gpt2", "layers": shape.layers, "partition": asdict(partition), "source": "d0",
                "devices": views, "links": links, "prompt_tokens": PROMPT, "tokens_done": decision * 2 * INTERVAL,
                "tokens_max": TOKENS, "interval": INTERVAL, "weights": "staged", "hop_overhead_s": 2e-4,
            }
        )  # fmt: skip
    return seen


def cost(seen: list[dict[str, Any]], decided: list[list[list[str]] | None]) -> float | None:
    """Seconds of all intervals; None where there is no placement, or one that does not fit."""
    total, old = 0.0, None
    for plain, answer in zip(seen, decided, strict=True):
        if answer is None:
            return None
        observation, new = observed(plain), Placement({parse_block(block): device for block, device in answer})
        if shortages(observation, old, new):
            return None
        total += interval_cost(observation, old, new)
        old = new
    return total


def compared(policy: str, other: Path, instances: int) -> dict[str, Any]:
    """The ratios of the costs of one policy's decisions, ours over theirs."""
    here, there = Decider(ROOT), Decider(other)
    ratios: list[float] = []
    alike, only_ours, only_theirs, neither = 0, 0, 0, 0
    ours_s = theirs_s = 0.0
    for number in range(instances):
        seen = drawn(number, POLICIES[policy])
        ours, theirs = here.ask(policy, seen, 0.0), there.ask(policy, seen, 0.0)
        ours_s, theirs_s = ours_s + ours["cpu_s"], theirs_s + theirs["cpu_s"]
        alike += ours["decided"] == theirs["decided"]
        one, two = cost(seen, ours["decided"]), cost(seen, theirs["decided"])
        if one is not None and two is not None:
            ratios.append(one / two)
        else:
            only_ours, only_theirs = only_ours + (one is not None), only_theirs + (two is not None)
            neither += one is None and two is None
    here.end()
    there.end()
    return {
        "instances": instances, "alike": alike, "compared": len(ratios), "mean_ratio": statistics.mean(ratios),
        "worst_ratio": max(ratios), "best_ratio": min(ratios), "only_ours_fit": only_ours,
        "only_theirs_fit": only_theirs, "neither_fits": neither, "ours_cpu_s": ours_s, "peer_cpu_s": theirs_s,
    }  # fmt: skip


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--instances", type=int, default=200)
    parser.add_argument("--policy", action="append", choices=tuple(POLICIES))
    given = parser.parse_args()
    figures = {}
    for policy in given.policy or POLICIES:
        found = figures[policy] = compared(policy, given.folder.resolve(), given.instances)
        print(
            f"{policy}: {found['alike']} of {found['instances']} instances alike; cost ratio on {found['compared']}: "
            f"mean {found['mean_ratio']:.6f}, {found['best_ratio']:.4f} to {found['worst_ratio']:.4f}; "
            f"only ours fit {found['only_ours_fit']}, only theirs {found['only_theirs_fit']}",
            flush=True,
        )
    mean = statistics.mean(found["mean_ratio"] for found in figures.values())
    line = {
        "benchmark": "decisions",
        "ratio": mean,
        "unit": "times the cost",
        "peer": f"the checkout {given.folder.name}",
    }
    print(json.dumps(line | figures))


if __name__ == "__main__":
    main()
