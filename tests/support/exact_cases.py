"""Instances for the exact search: small enough for brute force, and larger ones."""

from __future__ import annotations

import math
import random
from dataclasses import replace

from testbed.placement.blocks import Partition, Placement, blocks_of, pinned_bytes, resident_bytes
from testbed.placement.cost.memory import shortages
from testbed.placement.observation import DeviceView, LinkView, Observation
from testbed.shape import ModelShape

ENUMERABLE = 7000  # placements that brute force looks at, at most


def tiny_instance(seed: int) -> tuple[Observation, Placement | None]:
    """2-3 devices, 1-2 layers, 2-3 heads, all partitions, memory tight or loose, something placed or not."""
    rng = random.Random(seed)
    names = "abc"[: rng.choice([2, 3])]
    shape = ModelShape("x", rng.choice([1, 1, 2]), 64, 0, rng.choice([2, 3]), 16, 256, 64, 256, rng.random() < 0.5)
    shape = replace(shape, heads=shape.kv_heads * rng.choice([1, 2]))
    if rng.random() >= 0.5:
        shape = replace(shape, qkv_bias=False, proj_bias=False, ffn_bias=False, norm_bias=False)
    partition = Partition(rng.choice([1, 1, 2, 4]), proj_rows=rng.random() < 0.3)
    while len(names) ** len(blocks_of(shape, partition)) > ENUMERABLE:
        if partition.ffn_shards > 1:
            partition = replace(partition, ffn_shards=partition.ffn_shards // 2)
        elif shape.layers > 1:
            shape = replace(shape, layers=1)
        else:
            names = names[:2]
    whole = sum(resident_bytes(shape, block, 60, partition) for block in blocks_of(shape, partition))
    weights = [rng.lognormvariate(0, 0.5) for _ in names]
    tightness = rng.choice([1.2, 1.5, 2, 3, 4])
    pinned = pinned_bytes(shape, partition)
    devices = tuple(
        DeviceView(
            name,
            int(whole * tightness * weight / sum(weights)) + (pinned if name == "a" else 0),
            rng.lognormvariate(math.log(1e8), 0.7),
            rng.lognormvariate(math.log(1e9), 0.7),
            rng.lognormvariate(math.log(1e7), 1),
        )
        for name, weight in zip(names, weights, strict=True)
    )

    def link() -> LinkView:
        rates = [rng.lognormvariate(math.log(3e7), 0.8) for _ in range(2)]
        return LinkView(*rates, *(rng.choice([1e-4, 5e-4, 2e-3]) * rng.uniform(0.5, 1) for _ in range(2)))

    done = rng.choice([0, 8])
    links = {name: link() for name in names}
    staged = rng.choice(["staged", "shipped"])
    observation = Observation(
        shape, partition, "a", devices, links, 20, done, 40, rng.choice([1, 4, 8, 30]), staged, 1e-4
    )
    if not done:
        return observation, None
    return observation, some_placement(observation, rng)


def some_placement(observation: Observation, rng: random.Random) -> Placement:
    """A random placement; mostly one that fits."""
    names = [view.name for view in observation.devices]
    for _ in range(200):
        blocks = blocks_of(observation.shape, observation.partition)
        placement = Placement({block: rng.choice(names) for block in blocks}, 3)
        if rng.random() < 0.2 or not shortages(observation, None, placement):
            break
    return placement


def medium_instance(seed: int, names: str, layers: int, heads: int, tightness: float, shards: int = 1) -> Observation:
    """Log-normal speeds, rates, delays and memory, `tightness` times the model in all."""
    rng = random.Random(seed)
    shape = ModelShape("m", layers, heads * 32, heads, heads, 32, heads * 64, 1000, 1024)
    partition = Partition(ffn_shards=shards)
    whole = sum(resident_bytes(shape, block, 100, partition) for block in blocks_of(shape, partition))
    largest = max(resident_bytes(shape, block, 100, partition) for block in blocks_of(shape, partition))
    weights = [rng.lognormvariate(0, 0.4) for _ in names]
    budgets = [max(int(whole * tightness * weight / sum(weights)), largest) for weight in weights]
    budgets[0] += pinned_bytes(shape, partition)
    speeds = [rng.lognormvariate(math.log(2e9), 0.5) for _ in names]
    devices = tuple(
        DeviceView(name, budget, speed, 8 * speed, 9e7)
        for name, budget, speed in zip(names, budgets, speeds, strict=True)
    )
    links = {}
    for name in names:
        rate, delay = rng.lognormvariate(math.log(3e8), 0.6), rng.lognormvariate(math.log(3e-4), 0.5)
        links[name] = LinkView(rate, rate, delay, delay)
    return Observation(shape, partition, names[0], devices, links, 64, 0, 400, 8, hop_overhead_s=1e-4)


def later(observation: Observation, seed: int) -> Observation:
    """The same fleet 16 tokens on, with other rates and speeds."""
    rng = random.Random(seed)
    links = {
        name: replace(link, up_bps=link.up_bps * rng.lognormvariate(0, 0.6)) for name, link in observation.links.items()
    }
    devices = tuple(
        replace(view, streaming_Bps=view.streaming_Bps * rng.lognormvariate(0, 0.3)) for view in observation.devices
    )
    return replace(observation, tokens_done=observation.tokens_done + 16, links=links, devices=devices)
