"""An exchange in which every device adds up for itself: plans, their times, and the policies that can place for it."""

from __future__ import annotations

import heapq
from collections import defaultdict
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from placement_cases import all_to_all, networked, observations, placed, quickstart

from testbed.errors import ConfigError
from testbed.placement.blocks import (
    Block,
    Partition,
    Placement,
    blocks_of,
    copied_bytes,
    copies_of,
    wire_bytes,
)
from testbed.placement.cost.memory import Infeasible, check_complete, shortages
from testbed.placement.cost.model import cost_model, interval_cost, token_latency
from testbed.placement.latency import block_time
from testbed.placement.local.draft import Draft
from testbed.placement.observation import LinkView, Observation
from testbed.placement.plan import HalfPlan, Plan, make_plan, plan_messages
from testbed.placement.policies import ALL_TO_ALL, POLICIES, make_policy, refuse_exchange
from testbed.placement.tree import tree_roots

TOGETHER = Partition(4, proj_rows=True, exchange="all-to-all")


def halves(plan: Plan) -> list[HalfPlan]:
    return [half for layer in plan.layers for half in (layer.attention, layer.ffn)]


# --- blocks and plans ----------------------------------------------------------------------------------------


def test_sums_are_no_blocks_and_every_device_keeps_a_copy_of_each() -> None:
    shape = quickstart().shape
    assert {block.kind for block in blocks_of(shape, TOGETHER)} == {"head", "ffn"}
    assert len(copies_of(shape, TOGETHER)) == 24
    assert copied_bytes(shape, TOGETHER) == 24 * 4096
    assert copied_bytes(shape, Partition(4, proj_rows=True)) == 0


@settings(max_examples=150, deadline=None)
@given(placed(all_to_all))
def test_every_device_gets_partial_sums_exactly_as_long_as_it_has_work_to_do(
    case: tuple[Observation, Placement],
) -> None:
    observation, placement = case
    plan, source = make_plan(observation, placement), observation.source
    planned = halves(plan)
    for number, half in enumerate(planned):
        kind = "ffn" if number % 2 else "head"
        held = {Block(kind, number // 2, part): device for device, parts in half.work.items() for part in parts}  # type: ignore[arg-type]
        assert held == {b: d for b, d in placement.devices.items() if (b.kind, b.layer) == (kind, number // 2)}
        later = {device for other in planned[number + 1 :] for device in other.work}
        assert set(half.targets) == {source, *later} and half.target == source
        assert half.x_order == () or number == 0
        for device in half.work:
            assert sorted(half.receivers(device)) == sorted(half.targets)
    assert set(planned[0].x_order) == {device for half in planned for device in half.work} - {source}


def test_equal_shares_send_to_one_another_and_begin_with_different_receivers() -> None:
    observation = quickstart(partition=TOGETHER)
    where = {block: "abcd"[block.index % 4] for block in blocks_of(observation.shape, TOGETHER)}
    plan = make_plan(observation, Placement(where))
    half = plan.layers[0].ffn
    assert [half.receivers(device) for device in "abcd"] == [
        ("a", "b", "c", "d"), ("b", "c", "d", "a"), ("c", "d", "a", "b"), ("d", "a", "b", "c"),
    ]  # fmt: skip
    messages = [(sender, to) for sender, to, _ in plan_messages(observation.shape, plan, 1, TOGETHER)]
    assert len(messages) == 3 + 23 * 12 + 3  # the embedding's x, all halves but one, and the last one to the source
    assert plan.layers[-1].ffn.targets == ("a",)


# --- times ---------------------------------------------------------------------------------------------------


def block_seconds(observation: Observation, device: str, block: Block, length: int) -> float:
    """Seconds of one block for one token on a device."""
    return block_time(observation.shape, block, observation.device(device), length, 1, observation.partition)


class Workers:
    """A token as workers carry it out: links and devices are FIFO servers. With `barrier`, a half begins when the last
    device that takes part in the token from there on has x."""

    def __init__(self, observation: Observation, plan: Plan, length: int, barrier: bool) -> None:
        self.seen, self.plan, self.length, self.barrier = observation, plan, length, barrier
        self.halves = halves(plan)
        self.free: dict[Any, float] = defaultdict(float)
        self.heap: list[tuple[float, int, Any]] = []
        self.turn = count()
        self.missing: dict[tuple[int, str], int] = {}
        self.arrived: dict[int, list[str]] = defaultdict(list)

    def run(self) -> float:
        """Seconds from x at the source to x at the source."""
        x = self.seen.shape.width * self.seen.shape.activation_bytes
        self.begins(0, 0.0, self.plan.source)
        for device in self.halves[0].x_order:
            self.send(0.0, self.plan.source, device, x, lambda now, device=device: self.begins(0, now, device))
        while self.heap:
            now, _, what = heapq.heappop(self.heap)
            what(now)
        return self.ended

    def send(self, now: float, source: str, target: str, payload: float, then: Any) -> None:
        path, bits = self.seen.path(source, target), wire_bytes(payload) * 8

        def leg(number: int, rate: float, now: float) -> None:
            hop, own, delay = path[number]
            rate = min(rate, own)
            start = max(now, self.free[hop])
            self.free[hop] = start + bits / rate
            if number + 1 < len(path):
                self.at(start + delay, lambda then_s: leg(number + 1, rate, then_s))
            else:
                self.at(self.free[hop] + delay + self.seen.hop_overhead_s, then)

        leg(0, float("inf"), now)

    def at(self, when: float, what: Any) -> None:
        heapq.heappush(self.heap, (when, next(self.turn), what))

    def begins(self, number: int, now: float, device: str) -> None:
        """This device has what half `number` begins with."""
        if number == len(self.halves):
            self.ended = now
            return
        if not self.barrier:
            self.works(number, now, device)
            return
        before = self.halves[number - 1].targets if number else (self.plan.source, *self.halves[0].x_order)
        self.arrived[number].append(device)
        if len(self.arrived[number]) == len(before):
            order = [view.name for view in self.seen.devices]
            for each in sorted(before, key=order.index):
                self.works(number, now, each)

    def works(self, number: int, now: float, device: str) -> None:
        half, kind = self.halves[number], "ffn" if number % 2 else "head"
        parts = half.work.get(device, ())
        for _ in parts:
            now = max(now, self.free[device]) + block_seconds(self.seen, device, Block(kind, 0), self.length)  # type: ignore[arg-type]
            self.free[device] = now
        payload = len(tree_roots(parts)) * self.seen.shape.width * self.seen.shape.activation_bytes

        def leaves(now: float) -> None:
            for target in half.receivers(device) if parts else ():
                if target != device:
                    self.send(now, device, target, payload, lambda now, target=target: self.gets(number, now, target))
            if device in half.targets:
                self.gets(number, now, device)

        self.at(now, leaves)

    def gets(self, number: int, now: float, device: str) -> None:
        """One result more, or this device's own part and x, are there."""
        half, key = self.halves[number], (number, device)
        missing = self.missing.get(key, len({*half.work, device})) - 1
        self.missing[key] = missing
        if not missing:
            adding = block_seconds(self.seen, device, Block("sum", 0, number % 2), self.length)
            self.at(now + adding, lambda now: self.begins(number + 1, now, device))


@settings(max_examples=200, deadline=None)
@given(st.one_of(placed(all_to_all), networked(all_to_all)), st.integers(0, 50))
def test_a_token_takes_what_workers_take_that_wait_for_one_another(
    case: tuple[Observation, Placement], more: int
) -> None:
    observation, length = case[0], case[0].length + more
    plan = make_plan(*case)
    layers = replace(observation, partition=replace(observation.partition, vocab_shards=1))  # and a whole LM head
    around = cost_model(layers).source_seconds(cost_model(layers).source)
    plan = replace(plan, vocab=None)
    waiting = Workers(layers, plan, length, barrier=True).run()
    # Nothing is said of devices that do not wait: a message that leaves early can be in the way of a more urgent one.
    assert token_latency(layers, plan, length) == pytest.approx(waiting + around, rel=1e-9, abs=1e-9)


def test_two_hops_a_layer_are_worked_out_by_hand() -> None:
    observation = quickstart(partition=TOGETHER)
    views = tuple(replace(view, streaming_Bps=2e9) for view in observation.devices[:2])
    links = {name: replace(observation.links["a"], up_bps=1e8, down_bps=1e8) for name in "ab"}
    observation = replace(observation, devices=views, links=links)
    where = {block: "ab"[block.index % 4 // 2] for block in blocks_of(observation.shape, TOGETHER)}
    plan, width = make_plan(observation, Placement(where)), observation.shape.width * observation.shape.activation_bytes

    def hop(numbers: int) -> float:
        return (wire_bytes(numbers * width) * 8) / 1e8 + 4e-4 + 1e-4

    head, shard, adding = (block_seconds(observation, "a", Block(kind, 0), 30) for kind in ("head", "ffn", "sum"))  # type: ignore[arg-type]
    roots = [len(tree_roots(plan.layers[0].attention.work[device])) for device in "ab"]
    layer = 6 * head + hop(max(roots)) + adding + 2 * shard + hop(1) + adding
    around = cost_model(observation).source_seconds(0)
    assert token_latency(observation, plan, 30) == pytest.approx(hop(1) + 12 * layer + around, rel=1e-9)


def test_it_saves_the_way_to_a_hub_and_back_and_loses_where_one_link_is_slow() -> None:
    hub = replace(TOGETHER, exchange="hub")

    def seconds(partition: Partition, delay_s: float, slow_bps: float) -> float:
        observation = quickstart(partition=partition)
        link = LinkView(1e9, 1e9, delay_s / 2, delay_s / 2)
        links = dict.fromkeys("abcd", link) | {"d": replace(link, up_bps=slow_bps, down_bps=slow_bps)}
        views = tuple(replace(view, available_bytes=2**30) for view in observation.devices)
        observation = replace(observation, links=links, devices=views)
        where = {block: "abcd"[block.index % 4] for block in blocks_of(observation.shape, partition)}
        where |= {block: "a" for block in where if block.kind == "sum"}
        return token_latency(observation, Placement(where), 30, lm_head=False)

    assert seconds(TOGETHER, 5e-3, 1e9) < 0.7 * seconds(hub, 5e-3, 1e9)
    # Every other device's sums go there, and not only x.
    assert seconds(TOGETHER, 1e-5, 2e6) > 1.3 * seconds(hub, 1e-5, 2e6)


# --- policies ------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(observations(tightness=st.floats(0.7, 3), cuts=all_to_all), st.sampled_from(ALL_TO_ALL), st.data())
def test_policies_that_place_for_it_stay_feasible_and_repeatable_and_charge_what_it_costs(
    observation: Observation, name: str, data: st.DataObject
) -> None:
    policy, twin = make_policy(name, {}), make_policy(name, {})
    placement: Placement | None = None
    for done in (0, 8, 16):
        scale = st.floats(0.5, 1.5) if done else st.just(1.0)
        views = tuple(
            replace(view, available_bytes=int(view.available_bytes * data.draw(scale))) for view in observation.devices
        )
        now, before = replace(observation, tokens_done=done, devices=views), placement
        try:
            placement = policy.decide(now, before)
        except Infeasible:
            return
        check_complete(now, placement)
        assert shortages(now, before, placement) == []
        assert twin.decide(now, before).devices == placement.devices
        model = cost_model(now)
        around = model.source_seconds(model.source) - model.source_seconds(model.source, lm_head=False)
        cost = interval_cost(now, before, placement) - now.interval_tokens * around
        assert Draft(model, placement, before).cost == pytest.approx(cost, rel=1e-6)


def test_tensor_parallel_gives_every_device_an_equal_share() -> None:
    observation = quickstart(partition=TOGETHER)
    views = tuple(replace(view, available_bytes=2**30) for view in observation.devices)
    placement = make_policy("tensor-parallel", {}).decide(replace(observation, devices=views), None)
    for layer in range(12):
        for kind, share in (("head", 3), ("ffn", 1)):
            held = [device for block, device in placement.devices.items() if (block.kind, block.layer) == (kind, layer)]
            assert sorted(held) == sorted("abcd" * share)


def test_policies_that_think_in_hubs_are_refused_in_one_sentence() -> None:
    for name in set(POLICIES) - set(ALL_TO_ALL):
        with pytest.raises(ConfigError, match=f"policy {name} .*partition.exchange: hub, .* tensor-parallel"):
            refuse_exchange(name, TOGETHER)
    for name in (*ALL_TO_ALL, "mine.py:Mine"):
        refuse_exchange(name, TOGETHER)
    for name in POLICIES:
        refuse_exchange(name, replace(TOGETHER, exchange="hub"))
    refuse_exchange("static", TOGETHER, {"*": "a"})
