"""The time that `exact` takes for four layers of eight heads on 3 to 5 devices with tight and loose memory.

For four decisions each, this prints the seconds of the first and of later decisions, and the gap of each instance whose
optimum was not proved:

    .venv/bin/python -m benchmarks.exact --seeds 5
"""

from __future__ import annotations

import argparse
import math
import random
import time
from dataclasses import replace
from statistics import median

from testbed.placement.blocks import Partition, Placement, blocks_of, pinned_bytes, resident_bytes
from testbed.placement.cost.memory import Infeasible
from testbed.placement.observation import DeviceView, LinkView, Observation
from testbed.placement.policies import make_policy
from testbed.shape import ModelShape

NAMES = "abcdefgh"
DECISIONS = 4
HEAD_DIM = 64


def instance(seed: int, devices: int, layers: int, heads: int, tightness: float, shards: int) -> Observation:
    """A star of log-normal devices and links whose memory is `tightness` times the model."""
    rng = random.Random(seed)
    width = heads * HEAD_DIM
    shape = ModelShape("bench", layers, width, heads, heads, HEAD_DIM, 4 * width, 5000, 2048)
    partition = Partition(ffn_shards=shards)
    sizes = [resident_bytes(shape, block, 200, partition) for block in blocks_of(shape, partition)]
    weights = [rng.lognormvariate(0, 0.5) for _ in range(devices)]
    budgets = [int(max(sum(sizes) * tightness * weight / sum(weights), max(sizes))) for weight in weights]
    budgets[0] += pinned_bytes(shape, partition)
    speeds = [rng.lognormvariate(math.log(4e9), 0.5) for _ in range(devices)]
    links = {}
    for name in NAMES[:devices]:
        rate, delay = rng.lognormvariate(math.log(3e8), 0.6), rng.lognormvariate(math.log(3e-4), 0.5)
        links[name] = LinkView(rate, rate, delay, delay)
    views = tuple(
        DeviceView(name, budget, speed, 8 * speed, 9e7)
        for name, budget, speed in zip(NAMES, budgets, speeds, strict=False)
    )
    return Observation(shape, partition, "a", views, links, 64, 0, 512, 8, hop_overhead_s=1e-4)


def changed(observation: Observation, rng: random.Random) -> Observation:
    """The same star 32 tokens later, with other rates and speeds, and slightly other memory."""
    views = tuple(
        replace(
            view,
            available_bytes=int(view.available_bytes * min(1.1, rng.lognormvariate(0, 0.1))),
            streaming_Bps=view.streaming_Bps * rng.lognormvariate(0, 0.3),
        )
        for view in observation.devices
    )
    links = {}
    for name, link in observation.links.items():
        factor = rng.lognormvariate(0, 0.6)
        links[name] = replace(link, up_bps=link.up_bps * factor, down_bps=link.down_bps * factor)
    return replace(observation, tokens_done=observation.tokens_done + 32, devices=views, links=links)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--devices", type=int, nargs="+", default=[3, 4, 5])
    parser.add_argument("--tightness", type=float, nargs="+", default=[1.15, 1.4, 3.0])
    parser.add_argument("--ffn-shards", type=int, default=1)
    given = parser.parse_args()
    make_policy("exact", {}).decide(instance(0, 2, 1, 2, 3.0, 1), None)  # imports and compiles everything first
    print("devices  memory  decisions  infeasible  unproved  first s: median   max   later s: median   max")
    unproved: list[str] = []
    for devices in given.devices:
        for tightness in given.tightness:
            first: list[float] = []
            later: list[float] = []
            infeasible = missed = 0
            for seed in range(given.seeds):
                rng = random.Random(1000 + seed)
                policy = make_policy("exact", {})
                policy.reset(seed)
                placement: Placement | None = None
                observation = instance(seed, devices, given.layers, given.heads, tightness, given.ffn_shards)
                for number in range(DECISIONS):
                    started = time.process_time()
                    try:
                        placement = policy.decide(observation, placement)
                    except Infeasible:
                        infeasible += 1
                        break
                    finally:
                        (later if number else first).append(time.process_time() - started)
                    proof = policy.last  # type: ignore[attr-defined]
                    if not proof.proved:
                        missed += 1
                        unproved.append(
                            f"{devices} devices, memory {tightness}, seed {seed}, decision {number}: {proof.gap:.4%}"
                        )
                    observation = changed(observation, rng)
            after = f"{median(later):15.2f} {max(later):5.2f}" if later else ""
            print(
                f"{devices:7} {tightness:7} {len(first) + len(later):10} {infeasible:11} {missed:9} "
                f"{median(first):16.2f} {max(first):5.2f} {after}",
                flush=True,
            )
    for line in unproved:
        print("not proved:", line)


if __name__ == "__main__":
    main()
