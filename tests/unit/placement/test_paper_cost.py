"""`cost: paper`: the paper's delays by hand, its exact search against brute force, and where it is refused."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from pathlib import Path

import pytest

from testbed.errors import ConfigError
from testbed.experiment.schema import Experiment
from testbed.placement.blocks import Partition, Placement, block_flops, blocks_of, payload_bytes, pinned_bytes
from testbed.placement.cost.memory import Infeasible, shortages
from testbed.placement.cost.model import interval_cost, token_latency
from testbed.placement.exact.one_layer import one_layer_optimum
from testbed.placement.observation import DeviceView, LinkView, Observation
from testbed.placement.policies import make_policy
from testbed.placement.whole_run import decoded_lengths, least_run
from testbed.running.backends import find_backend
from testbed.running.check import check_experiment
from testbed.running.request import RunRequest
from testbed.shape import ModelShape

PAPER_SMALL = Path(__file__).parents[3] / "experiments" / "paper-small.yaml"
SHAPE = ModelShape(
    "one layer", layers=1, width=64, heads=3, kv_heads=3, head_dim=16, ffn_width=256, vocab=64, positions=128,
    learned_positions=False, qkv_bias=False, proj_bias=False, ffn_bias=False, norm_bias=False,
)  # fmt: skip
HEADS, PROJ, FFN = blocks_of(SHAPE)[:3], *blocks_of(SHAPE)[3:]


def instance(seed: int, memory: float = 8.0, devices: int = 3, done: int = 0) -> Observation:
    """A star of unlike devices; `memory` is in multiples of 64 pages each."""
    rng = random.Random(seed)
    names = "abc"[:devices]
    views = tuple(
        DeviceView(
            name,
            int(memory * rng.uniform(0.6, 1.4) * 64 * 4096) + (pinned_bytes(SHAPE, Partition()) if name == "a" else 0),
            1e9,
            rng.uniform(1e6, 1e7),
            rng.uniform(1e6, 1e7),
        )
        for name in names
    )
    links = {name: LinkView(rng.uniform(1e5, 1e7), rng.uniform(1e5, 1e7), 0.01, 0.02) for name in names}
    return Observation(
        SHAPE, Partition(), "a", views, links, prompt_tokens=9, tokens_done=done, tokens_max=done + 12, interval=4,
        weights=rng.choice(["shipped", "staged"]), hop_overhead_s=1e-3, cost="paper",
    )  # fmt: skip


def every_placement(observation: Observation) -> list[Placement]:
    names = [view.name for view in observation.devices]
    blocks = blocks_of(SHAPE)
    return [Placement(dict(zip(blocks, where, strict=True))) for where in itertools.product(names, repeat=len(blocks))]


def test_a_token_takes_the_slowest_device_with_heads_then_proj_then_the_ffn() -> None:
    seen = instance(1)
    placement = Placement({HEADS[0]: "a", HEADS[1]: "b", HEADS[2]: "b", PROJ: "c", FFN: "a"})
    speed = {view.name: view.compute_flops for view in seen.devices}

    def way(source: str, target: str, size: float) -> float:
        return 8 * size / min(seen.links[source].up_bps, seen.links[target].down_bps)

    head = block_flops(SHAPE, HEADS[0], 12)
    on_a = head / speed["a"] + way("a", "c", 64)
    on_b = way("a", "b", 256) + 2 * head / speed["b"] + way("b", "c", 128)
    proj = block_flops(SHAPE, PROJ, 12) / speed["c"]
    ffn = way("c", "a", 256) + block_flops(SHAPE, FFN, 12) / speed["a"]
    assert token_latency(seen, placement, 12) == pytest.approx(max(on_a, on_b) + proj + ffn, rel=1e-12)


def test_a_migration_takes_the_bytes_over_the_rate_of_the_busiest_link() -> None:
    seen = replace(instance(2, done=4), weights="shipped")
    old = Placement(dict.fromkeys(blocks_of(SHAPE), "a"))
    new = old.with_moves([(HEADS[0], "b"), (HEADS[1], "c")], 1)
    size = payload_bytes(SHAPE, HEADS[0], seen.length - 1, True, Partition())
    a, b, c = (seen.links[name] for name in "abc")
    delay = 8 * size * max(2 / a.up_bps, 1 / b.down_bps, 1 / c.down_bps)
    stay = replace(seen, interval=4)
    assert interval_cost(stay, old, new) - interval_cost(stay, None, new) == pytest.approx(delay, rel=1e-9)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("memory", [0.7, 1.2, 8.0])
def test_the_exact_search_finds_what_brute_force_finds(seed: int, memory: float) -> None:
    seen = instance(seed, memory, done=4 if seed % 3 else 0)
    fitting = [one for one in every_placement(seen) if not shortages(seen, None, one)]
    old = random.Random(seed).choice(fitting) if seen.tokens_done and fitting else None
    costs = [interval_cost(seen, old, one) for one in fitting if not shortages(seen, old, one)]
    found, seconds = one_layer_optimum(seen, old)
    assert seconds == pytest.approx(min(costs, default=float("inf")), rel=1e-12)
    if found is None:
        with pytest.raises(Infeasible):
            make_policy("exact", {}).decide(seen, old)
        return
    assert shortages(seen, old, found) == []
    assert interval_cost(seen, old, found) == pytest.approx(seconds, rel=1e-12)
    assert make_policy("exact", {}).decide(seen, old).devices == found.devices


def least_by_brute_force(run: list[Observation]) -> float:
    value = dict.fromkeys(range(len(every_placement(run[0]))), 0.0)
    placements = every_placement(run[0])
    for number, seen in enumerate(run):
        now = {}
        for row, new in enumerate(placements):
            if shortages(seen, None, new):
                continue
            tokens = sum(token_latency(seen, new, length) for length in decoded_lengths(seen))
            reached = [
                value[before]
                + (interval_cost(seen, old, new) - interval_cost(seen, None, new) if number and old != new else 0.0)
                for before, old in enumerate(placements)
                if before in value and not (number and shortages(seen, old, new))
            ]
            if reached:
                now[row] = min(reached) + tokens
        value = now
    return min(value.values(), default=float("inf"))


@pytest.mark.parametrize("seed", range(4))
def test_the_least_run_is_the_best_of_all_runs_or_a_bound_on_it(seed: int) -> None:
    shape_run = [replace(instance(seed + number, 8.0, 2, done), tokens_max=12) for number, done in enumerate((0, 4, 8))]
    run = [replace(seen, weights="shipped", devices=shape_run[0].devices) for seen in shape_run]
    expected = least_by_brute_force(run)
    found = least_run(run)
    assert found.seconds == pytest.approx(expected, rel=1e-9) if found.proved else found.seconds <= expected
    assert least_run(run, expected * (1 + 1e-12)).proved


def test_under_the_event_schedule_the_least_run_is_a_bound_on_every_policys() -> None:
    run = [replace(instance(7, 8.0, 3, done), cost="schedule", tokens_max=12) for done in (0, 4, 8)]
    least = least_run(run)
    assert not least.proved
    for name in ("paper", "greedy", "round-robin", "exact"):
        policy, old, total = make_policy(name, {}), None, 0.0
        policy.reset(1)
        for seen in run:
            new = policy.decide(seen, old)
            total += sum(token_latency(seen, new, length) for length in decoded_lengths(seen))
            total += interval_cost(seen, old, new) - interval_cost(seen, None, new)
            old = new
        assert total >= least.seconds * (1 - 1e-9), name


@pytest.mark.parametrize(
    "name", ["paper", "paper-search", "greedy", "round-robin", "edgeshard", "galaxy", "tensor-parallel", "single",
             "dynamic-threshold", "static"]
)  # fmt: skip
def test_no_policy_is_better_than_exact(name: str) -> None:
    for seed in range(5):
        seen = instance(seed, 8.0)
        policy = make_policy(name, {})
        policy.reset(1)
        first = policy.decide(seen, None)
        assert interval_cost(seen, None, first) >= one_layer_optimum(seen, None)[1] * (1 - 1e-12)


@pytest.mark.parametrize(("backend", "said"), [("mininet", "only --backend sim follows"), ("local", "only --backend")])
def test_real_devices_refuse_it_in_one_sentence(backend: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        find_backend(backend).refuse(RunRequest(Experiment.load(PAPER_SMALL), backend, tmp_path))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.layers=2", "cost: paper knows one decoder layer of whole blocks"),
        ("partition.ffn_shards=4", "cost: paper knows one decoder layer of whole blocks"),
        ("policy=headroom", "policy headroom searches the event schedule only"),
        ("policy=layerwise", "policy layerwise searches the event schedule only"),
    ],
)
def test_what_the_formula_does_not_know_is_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_experiment(Experiment.load(PAPER_SMALL, [override]), computed=False)


def test_exact_refuses_more_ways_to_divide_heads_than_it_can_count() -> None:
    seen = instance(1)
    many = tuple(replace(seen.devices[1], name=f"d{number}") for number in range(8))
    wide = replace(
        seen, shape=replace(SHAPE, heads=16, kv_heads=16, head_dim=4), devices=(*seen.devices, *many),
        links=dict(seen.links) | {view.name: seen.links["b"] for view in many},
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"no more than 100000 ways to divide heads .* 11 devices with 16 heads"):
        make_policy("exact", {}).decide(wide, None)
