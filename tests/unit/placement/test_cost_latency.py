"""The half-layer schedule against a full event simulation that was written without it."""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from placement_cases import networked, placed, quickstart

from testbed.placement.blocks import (
    Block,
    Placement,
    block_flops,
    block_read_bytes,
    blocks_of,
    embed_read_bytes,
    lm_head_flops,
    lm_head_read_bytes,
    operation_seconds,
    wire_bytes,
)
from testbed.placement.cost.model import cost_model, prefill_latency, token_latency
from testbed.placement.latency import Work, half_layer_latency
from testbed.placement.observation import LinkView, Observation
from testbed.placement.plan import HalfPlan, Plan, make_plan


class EventSimulation:
    """One step through all layers, event by event: links (one per direction) and processors are FIFO servers."""

    def __init__(self, observation: Observation, plan: Plan, length: int, rows: int, lm_head: bool = True) -> None:
        self.lm_head = lm_head
        self.observation, self.plan, self.length, self.rows = observation, plan, length, rows
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.turn = itertools.count()
        self.now = 0.0
        self.uplink_free = dict.fromkeys(observation.links, 0.0)
        self.downlink_free = dict.fromkeys(observation.links, 0.0)
        self.link_free: dict[tuple[str, str], float] = defaultdict(float)
        self.processor_free = {view.name: 0.0 for view in observation.devices}
        self.waiting: dict[int, int] = {}  # half -> things its target still waits for
        self.finished: float | None = None

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.heap, (when, next(self.turn), what))

    def run(self) -> float:
        self.half_begins(0, self.plan.source)
        while self.heap:
            self.now, _, what = heapq.heappop(self.heap)
            what()
        assert self.finished is not None
        return self.finished

    def send(self, source: str, target: str, payload: float, then: Callable[[], None]) -> None:
        """Hand a message to the uplink now; `then` runs when it can be used at the target."""
        if self.observation.routes is not None:
            self.send_along(self.observation.routes[source, target], wire_bytes(payload) * 8, math.inf, then)
            return
        here, there = self.observation.links[source], self.observation.links[target]
        bits = wire_bytes(payload) * 8
        start = max(self.now, self.uplink_free[source])
        self.uplink_free[source] = start + bits / here.up_bps

        def first_byte() -> None:
            begin = max(self.now, self.downlink_free[target])
            self.downlink_free[target] = begin + bits / min(here.up_bps, there.down_bps)
            self.at(self.downlink_free[target] + self.observation.hop_overhead_s, then)

        self.at(start + here.up_delay_s + there.down_delay_s, first_byte)

    def send_along(
        self, route: tuple[tuple[str, str], ...], bits: float, rate: float, then: Callable[[], None]
    ) -> None:
        """The message's first byte is at the first link of the route that is left, now."""
        (name, way), *rest = route
        link = self.observation.links[name]
        rate = min(rate, link.up_bps if way == "up" else link.down_bps)
        delay = link.up_delay_s if way == "up" else link.down_delay_s
        start = max(self.now, self.link_free[name, way])
        self.link_free[name, way] = start + bits / rate
        if rest:
            self.at(start + delay, partial(self.send_along, tuple(rest), bits, rate, then))
        else:
            self.at(self.link_free[name, way] + delay + self.observation.hop_overhead_s, then)

    def compute(self, device: str, block: Block, then: Callable[[], None]) -> None:
        view, shape = self.observation.device(device), self.observation.shape
        flops = block_flops(shape, block, self.length, self.rows, self.observation.partition)
        read = block_read_bytes(shape, block, self.length, self.observation.partition)
        seconds = max(flops / view.compute_flops, read / view.streaming_Bps)
        self.processor_free[device] = max(self.now, self.processor_free[device]) + seconds
        self.at(self.processor_free[device], then)

    def half_begins(self, number: int, holder: str) -> None:
        """Half `number` of the step: attention of layer number // 2, or its FFN."""
        shape, x = (
            self.observation.shape,
            self.rows * self.observation.shape.width * self.observation.shape.activation_bytes,
        )
        if number == 2 * len(self.plan.layers):
            if holder == self.plan.source:
                self.vocab_begins()
            else:
                self.send(holder, self.plan.source, shape.width * shape.activation_bytes, self.vocab_begins)
            return
        half = self.half(number)
        self.waiting[number] = 1 + sum(len(parts) for parts in half.work.values())  # the residual and each part
        for device in half.x_order:
            self.send(holder, device, x, partial(self.x_arrives, number, device))
        self.x_arrives(number, holder)

    def half(self, number: int) -> HalfPlan:
        layer = self.plan.layers[number // 2]
        return layer.ffn if number % 2 else layer.attention

    def x_arrives(self, number: int, device: str) -> None:
        half, shape, partition = self.half(number), self.observation.shape, self.observation.partition
        parts = half.work.get(device, ())
        left = [len(parts)]
        if number % 2 or partition.proj_rows:
            payload = self.rows * self.subtrees(parts, 0, 16) * shape.width * shape.activation_bytes
        else:
            payload = self.rows * len(parts) * shape.queries_per_group * shape.head_dim * shape.activation_bytes

        def part_done() -> None:
            left[0] -= 1
            if left[0]:
                return
            if device == half.target:
                self.target_gets(number, len(parts))
            else:
                self.send(device, half.target, payload, lambda: self.target_gets(number, len(parts)))

        for part in parts:
            self.compute(device, Block("ffn" if number % 2 else "head", number // 2, part), part_done)
        if device == half.target:
            self.target_gets(number, 1)

    def subtrees(self, parts: tuple[int, ...], start: int, end: int) -> int:
        """Partial sums that are left when all leaves here that can be added along the tree have been."""
        if all(leaf in parts for leaf in range(start, end)):
            return 1
        middle = (start + end) // 2
        return self.subtrees(parts, start, middle) + self.subtrees(parts, middle, end) if end - start > 1 else 0

    def target_gets(self, number: int, things: int) -> None:
        self.waiting[number] -= things
        if self.waiting[number]:
            return
        half, partition = self.half(number), self.observation.partition
        if number % 2:
            kind = "ffn" if partition.ffn_shards == 1 else "sum"
        else:
            kind = "sum" if partition.proj_rows else "proj"
        block = Block(kind, number // 2, number % 2 if kind == "sum" else 0)  # type: ignore[arg-type]
        self.compute(half.target, block, partial(self.half_begins, number + 1, half.target))

    def vocab_begins(self) -> None:
        """The LM head: at the source and counted elsewhere, or as shards."""
        vocab, source = self.plan.vocab, self.plan.source
        if vocab is None or not self.lm_head:
            self.ends()
            return
        self.waiting[-1] = sum(map(len, vocab.work.values()))
        for device in vocab.x_order:
            self.send(
                source,
                device,
                self.observation.shape.width * self.observation.shape.activation_bytes,
                partial(self.row_arrives, device),
            )
        self.row_arrives(source)

    def row_arrives(self, device: str) -> None:
        assert self.plan.vocab is not None
        shards = self.plan.vocab.work.get(device, ())

        def answered() -> None:
            self.waiting[-1] -= len(shards)
            if not self.waiting[-1]:
                self.ends()

        for shard in shards:
            last = shard == shards[-1]
            sent = partial(self.send, device, self.plan.source, 24 * len(shards), answered)
            then = answered if device == self.plan.source else sent
            self.compute(device, Block("vocab", 0, shard), then if last else lambda: None)

    def ends(self) -> None:
        self.finished = self.now


def source_work(observation: Observation, rows: int, lm_head: bool) -> float:
    view, shape = observation.device(observation.source), observation.shape
    embed = operation_seconds(0, embed_read_bytes(shape, rows), view.compute_flops, view.streaming_Bps)
    head = operation_seconds(lm_head_flops(shape), lm_head_read_bytes(shape), view.compute_flops, view.streaming_Bps)
    return embed + (head if lm_head and observation.partition.vocab_shards == 1 else 0)


@settings(max_examples=300, deadline=None)
@given(placed(), st.integers(0, 100))
def test_half_layers_add_up_to_a_full_event_simulation_of_the_token(
    case: tuple[Observation, Placement], more: int
) -> None:
    observation, placement = case
    length = observation.length + more
    plan = make_plan(observation, placement)
    simulated = EventSimulation(observation, plan, length, 1).run() + source_work(observation, 1, True)
    assert token_latency(observation, plan, length) == pytest.approx(simulated, rel=1e-9, abs=1e-9)
    assert token_latency(observation, placement, length) == token_latency(observation, plan, length)
    model, layers = cost_model(observation), range(len(plan.layers))
    halves = sum(model.attention_seconds(plan, layer, length) + model.ffn_seconds(plan, layer) for layer in layers)
    assert token_latency(observation, plan, length, lm_head=False) == pytest.approx(halves, rel=1e-12)


@settings(max_examples=150, deadline=None)
@given(placed(), st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_prefill_chunks_add_up_to_event_simulations_of_each_chunk(
    case: tuple[Observation, Placement], chunks: list[int]
) -> None:
    observation, placement = case
    plan = make_plan(observation, placement)
    simulated, length = 0.0, 0
    for number, rows in enumerate(chunks):
        length += rows
        last = number == len(chunks) - 1
        simulated += EventSimulation(observation, plan, length, rows, last).run()
        simulated += source_work(observation, rows, last)
    assert prefill_latency(observation, plan, chunks) == pytest.approx(simulated, rel=1e-9, abs=1e-9)


@settings(max_examples=300, deadline=None)
@given(networked(), st.integers(1, 9))
def test_on_any_network_half_layers_add_up_to_a_full_event_simulation(
    case: tuple[Observation, Placement], rows: int
) -> None:
    observation, placement = case
    plan = make_plan(observation, placement)
    length = observation.length + rows
    simulated = EventSimulation(observation, plan, length, 1).run() + source_work(observation, 1, True)
    assert token_latency(observation, plan, length) == pytest.approx(simulated, rel=1e-9, abs=1e-9)
    simulated = EventSimulation(observation, plan, rows, rows).run() + source_work(observation, rows, True)
    assert prefill_latency(observation, plan, [rows]) == pytest.approx(simulated, rel=1e-9, abs=1e-9)


@settings(max_examples=200, deadline=None)
@given(placed())
def test_a_star_said_by_its_routes_costs_the_same(case: tuple[Observation, Placement]) -> None:
    observation, placement = case
    links = {
        name: replace(link, up_bps=link.up_bps * (1 + n / 997), down_delay_s=link.down_delay_s + n / 1e6)
        for n, (name, link) in enumerate(observation.links.items())
    }
    star = replace(observation, links=links)
    routed = replace(star, routes={(a, b): ((a, "up"), (b, "down")) for a in links for b in links if a != b})
    assert make_plan(routed, placement) == make_plan(star, placement)
    assert token_latency(routed, placement, 50) == pytest.approx(token_latency(star, placement, 50), rel=1e-12)


def test_two_messages_share_a_backhaul_one_after_the_other() -> None:
    # a and b are on one side of a link of 1 Mbit/s, c and d on the other; a holds x, its work and b's go to c.
    links = {name: LinkView(1e9, 1e9, 0.001, 0.001) for name in "abcd"} | {"backhaul": LinkView(1e6, 1e6, 0.01, 0.01)}
    routes = {
        (i, j): ((i, "up"), ("backhaul", "up" if i in "ab" else "down"), (j, "down")) if (i in "ab") != (j in "ab")
        else ((i, "up"), (j, "down"))
        for i in "abcd" for j in "abcd" if i != j
    }  # fmt: skip
    observation = replace(quickstart(), links=links, routes=routes)
    work = [Work("a", 0.0, 500.0), Work("b", 0.0, 500.0)]
    seconds = half_layer_latency(links, 0, "a", ("b", "c"), 1000, work, "c", 0, observation.paths)
    shared = (wire_bytes(1000) + 2 * wire_bytes(500)) * 8 / 1e6
    assert shared + 0.012 < seconds < shared + 0.013
    # Between neighbours nothing is shared.
    seconds = half_layer_latency(links, 0, "a", ("b",), 1000, (), "b", 0, observation.paths)
    assert seconds == pytest.approx(wire_bytes(1000) * 8 / 1e9 + 0.002)


def test_a_lone_message_takes_its_bits_over_the_slower_link_plus_both_delays() -> None:
    links = {"a": LinkView(1e6, 1e6, 0.010, 0.5), "b": LinkView(1e6, 2e5, 0.5, 0.020)}
    seconds = half_layer_latency(links, 0.003, "a", ("b",), 1000, (), "b", 0.1)
    assert seconds == pytest.approx(wire_bytes(1000) * 8 / 2e5 + 0.030 + 0.003 + 0.1)


def test_a_result_queues_behind_the_x_messages_on_the_holders_uplink() -> None:
    links = {name: LinkView(1e6, 1e9, 0, 0) for name in "abc"}
    # a holds x and its heads finish at once; proj is on c: x goes to b, the residual to c, then a's result to c.
    seconds = half_layer_latency(links, 0, "a", ("b", "c"), 1000, [Work("a", 0.0, 500.0)], "c", 0)
    assert seconds == pytest.approx((2 * wire_bytes(1000) + wire_bytes(500)) * 8 / 1e6)


def test_the_residual_and_the_results_share_the_downlink_of_projs_device() -> None:
    links = {"a": LinkView(1e9, 1e9, 0, 0), "b": LinkView(1e9, 1e9, 0, 0), "c": LinkView(1e9, 1e6, 0, 0)}
    work = [Work("a", 0.0, 500.0), Work("b", 0.0, 500.0)]
    seconds = half_layer_latency(links, 0, "a", ("b", "c"), 1000, work, "c", 0)
    occupied = (wire_bytes(1000) + 2 * wire_bytes(500)) * 8 / 1e6
    assert occupied < seconds < occupied * 1.01


def test_everything_on_one_device_costs_its_block_times_and_no_network() -> None:
    observation = quickstart()
    placement = Placement(dict.fromkeys(blocks_of(observation.shape), "a"))
    view, shape = observation.device("a"), observation.shape
    seconds = sum(
        operation_seconds(
            block_flops(shape, block, 50), block_read_bytes(shape, block, 50), view.compute_flops, view.streaming_Bps
        )
        for block in blocks_of(shape)
    )
    assert token_latency(observation, placement, 50, lm_head=False) == pytest.approx(seconds)


def test_a_dead_link_makes_a_token_slow_and_finite() -> None:
    observation = quickstart(b_rate_bps=0.0)
    blocks = blocks_of(observation.shape)
    placement = Placement({block: "ab"[block.layer % 2] for block in blocks})
    assert 1e3 < token_latency(observation, placement, 50) < 1e9


def test_a_token_of_twelve_layers_on_four_devices_is_predicted_within_a_millisecond() -> None:
    observation = quickstart()
    placement = Placement({b: "abcd"[i % 4] for i, b in enumerate(blocks_of(observation.shape))})
    token_latency(observation, placement, 50)
    times = []
    for _ in range(20):
        start = time.process_time()
        token_latency(observation, placement, 50)
        times.append(time.process_time() - start)
    assert min(times) < 1e-3
