"""What a change of the fleet that can only help, or that changes nothing, does to decisions.

More memory and one more device that nobody needs leave every placement possible, and the order of devices means
nothing. Faster links do not always help: messages take turns in the order of their first bytes.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
from exact_cases import later, medium_instance, some_placement

from testbed.placement.blocks import Placement
from testbed.placement.cost.memory import Infeasible
from testbed.placement.cost.model import token_latency
from testbed.placement.exact.solve import decision_cost
from testbed.placement.observation import DeviceView, LinkView, Observation
from testbed.placement.policies import make_policy

PAGE = 4096
RIVALS = ("single", "round-robin", "greedy", "dynamic-threshold", "edgeshard", "layerwise", "tensor-parallel", "galaxy",
          "paper", "paper-search")  # fmt: skip
CASES = range(12)


def instance(seed: int) -> Observation:
    rng = random.Random(seed)
    shards = rng.choice([1, 1, 4])
    return medium_instance(seed, "abcd"[: rng.choice([3, 4])], rng.choice([1, 3]), 4, rng.choice([1.3, 2, 4]), shards)


def more_memory(seen: Observation) -> Observation:
    views = (replace(view, available_bytes=view.available_bytes * 3 // 2 // PAGE * PAGE) for view in seen.devices)
    return replace(seen, devices=tuple(views))


def with_device(seen: Observation, memory: int, speed: float, rate: float) -> Observation:
    views = (*seen.devices, DeviceView("z", memory, speed, speed, 1e6))
    return replace(seen, devices=views, links=dict(seen.links) | {"z": LinkView(rate, rate, 0.05, 0.05)})


def useless(seen: Observation) -> Iterator[Observation]:
    """One more device without memory, and one with as much as any that is slow and far away."""
    yield with_device(seen, 0, 1e9, 1e9)
    yield with_device(seen, max(view.available_bytes for view in seen.devices), 1e3, 1e3)


def decided(name: str, seen: Observation, old: Placement | None = None, **options: object) -> Placement | None:
    policy = make_policy(name, options)
    policy.reset(1)
    try:
        return policy.decide(seen, old)
    except Infeasible:
        return None


def costs(name: str, seeds: range, **options: object) -> Iterator[tuple[float, float]]:
    """The cost of a policy's decisions before and after each change, first ones and later ones."""
    for seed in seeds:
        first = instance(seed)
        placed = decided(name, first, **options)
        for seen, old in ((first, None), (replace(later(first, seed), tokens_done=16), placed)):
            before = decided(name, seen, old, **options)
            if before is None:
                continue
            for changed in (more_memory(seen), *useless(seen)):
                after = decided(name, changed, old, **options)
                assert after is not None, (name, seed)
                yield decision_cost(seen, old, before), decision_cost(changed, old, after)


def test_more_memory_or_a_useless_device_never_worsens_exact() -> None:
    assert all(after <= before * (1 + 1e-9) for before, after in costs("exact", CASES))


def test_they_worsen_headroom_by_at_most_one_percent() -> None:
    found = list(costs("headroom", CASES, horizon="interval"))
    assert len(found) > 50
    assert max(after / before for before, after in found) <= 1.01


@pytest.mark.parametrize("name", RIVALS)
def test_they_make_no_rival_infeasible(name: str) -> None:
    assert list(costs(name, CASES)) or name == "single"


@pytest.mark.parametrize("name", [*RIVALS, "headroom", "exact", "static"])
def test_the_order_of_devices_changes_no_decision(name: str) -> None:
    for seed in CASES[:6]:
        seen = instance(seed)
        old = decided(name, seen)
        for order in (1, 2, -1):
            views = seen.devices[::-1] if order < 0 else seen.devices[order:] + seen.devices[:order]
            turned = replace(seen, devices=views, links={view.name: seen.links[view.name] for view in views})
            assert decided(name, turned) == old, (name, seed, order)
            then = replace(later(seen, seed), tokens_done=16)
            by_name = {view.name: view for view in then.devices}
            turned = replace(then, devices=tuple(by_name[view.name] for view in views))
            if old is not None:
                assert decided(name, turned, old) == decided(name, then, old), (name, seed, order)


def test_a_faster_link_makes_few_tokens_longer_and_those_by_little() -> None:
    """A result that comes before x to the device where results meet is carried first, and x and its own work wait."""
    longer, tried = [], 0
    for seed in range(200):
        rng = random.Random(seed)
        seen = medium_instance(seed, "abcde"[: rng.choice([3, 4, 5])], 1, 8, 4.0, rng.choice([1, 4]))
        links = {
            name: replace(link, up_bps=3e7 * rng.lognormvariate(0, 1), down_bps=3e7 * rng.lognormvariate(0, 1))
            for name, link in seen.links.items()
        }
        seen = replace(seen, links=links)
        placement = some_placement(seen, rng)
        before = token_latency(seen, placement, 80)
        for name, key in itertools.product(links, ("up_bps", "down_bps")):
            quick = links | {name: replace(links[name], **{key: 2 * getattr(links[name], key)})}
            after = token_latency(replace(seen, links=quick), placement, 80)
            tried += 1
            if after > before * (1 + 1e-9):
                longer.append(after / before - 1)
    most = max(longer)
    print(f"{len(longer)} of {tried} tokens take longer when one direction of a link doubles, by up to {most:.1%}")
    assert 0 < len(longer) < 0.01 * tried and most < 0.1
