"""A device's finer numbers change what they say and nothing else; without them, no number changes at all."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from placement_cases import quickstart

from testbed.controller.conditions import Conditions, observe
from testbed.device_model import PLAIN, DeviceModel
from testbed.experiment.schema import Experiment
from testbed.models.presets import PRESETS
from testbed.placement.blocks import (
    Block,
    Partition,
    block_flops,
    block_read_bytes,
    embed_read_bytes,
    lm_head_flops,
    lm_head_read_bytes,
    state_bytes,
    weight_bytes_by_format,
)
from testbed.placement.cost.model import token_latency
from testbed.placement.latency import block_time, cost_seconds
from testbed.placement.observation import DeviceView
from testbed.placement.operation import block_cost, embed_cost, flops_by_format, lm_head_cost
from testbed.placement.policies import make_policy
from testbed.shape import WeightFormats
from testbed.topologies.model import Topology

PACKED = replace(PRESETS["tinyllama-1.1b"], weights=WeightFormats.all_in("q4_0"), kv_format="float16")
KINDS = ("head", "proj", "ffn", "sum", "vocab")


def view(**finer: object) -> DeviceView:
    model = DeviceModel(plain_Bps=4e9, plain_flops=2e10, **finer)  # type: ignore[arg-type]
    return DeviceView("a", 2**33, 4e9, 2e10, 9e7, model)


@given(st.sampled_from(KINDS), st.integers(1, 4000), st.integers(1, 64), st.floats(1e6, 1e12), st.floats(1e6, 1e14))
def test_without_finer_numbers_a_block_takes_exactly_the_larger_of_two_quotients(
    kind: str, length: int, rows: int, streaming: float, compute: float
) -> None:
    block, cut = Block(kind, 0), Partition(4, True, 2)  # type: ignore[arg-type]
    rows = min(rows, length)
    device = DeviceView("a", 2**33, streaming, compute, 9e7)
    flops, read = block_flops(PACKED, block, length, rows, cut), block_read_bytes(PACKED, block, length, cut)
    assert block_time(PACKED, block, device, length, rows, cut) == max(flops / compute, read / streaming)


def test_without_finer_numbers_embedding_and_lm_head_take_exactly_what_they_took() -> None:
    device = DeviceView("a", 2**33, 3.7e9, 1.1e10, 9e7)
    assert cost_seconds(embed_cost(PACKED, 5), device) == embed_read_bytes(PACKED, 5) / 3.7e9
    head = max(lm_head_flops(PACKED) / 1.1e10, lm_head_read_bytes(PACKED) / 3.7e9)
    assert cost_seconds(lm_head_cost(PACKED), device) == head


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 7])
def test_flops_by_format_add_up_to_the_blocks_flops(kind: str, rows: int) -> None:
    block, cut = Block(kind, 0), Partition(4, True, 2)  # type: ignore[arg-type]
    found = flops_by_format(PACKED, block, 100, rows, cut)
    assert sum(found.values()) == block_flops(PACKED, block, 100, rows, cut)
    if kind == "head":
        assert found["float16"] == 4 * 8 * 64 * sum(range(100 - rows + 1, 101)), "the cache's part"


def test_weights_stream_at_their_formats_rate_and_caches_at_their_own_as_often_as_they_are_read() -> None:
    head = Block("head", 0)
    weights = weight_bytes_by_format(PACKED, "head")
    device = view(streaming_Bps=(("q4_0", 2e9),), kv_streaming_Bps=1e9, kv_rereads=2.0)
    expected = weights["q4_0"] / 2e9 + weights["float32"] / 4e9 + 2 * state_bytes(PACKED, head, 500) / 1e9
    assert block_time(PACKED, head, device, 500) == pytest.approx(expected, rel=1e-12)


def test_products_are_done_at_their_formats_compute_rate() -> None:
    device = view(compute_flops=(("q4_0", 1e6), ("float16", 2e6)))
    flops = flops_by_format(PACKED, Block("head", 0), 500)
    expected = flops["q4_0"] / 1e6 + flops["float16"] / 2e6
    assert block_time(PACKED, Block("head", 0), device, 500) == pytest.approx(expected, rel=1e-12)


def test_one_threads_share_takes_as_many_times_as_long_as_there_are_threads_and_each_operation_has_a_barrier() -> None:
    plain = block_time(PACKED, Block("ffn", 0), view(), 9)
    slowed = block_time(PACKED, Block("ffn", 0), view(threads=4, serial_share=0.1, barrier_s=1e-4), 9)
    assert slowed == pytest.approx(plain * (0.9 + 0.1 * 4) + 1e-4, rel=1e-12)


def test_a_trace_that_halves_the_streaming_rate_halves_that_of_every_format() -> None:
    device = replace(view(streaming_Bps=(("q4_0", 2e9),), kv_streaming_Bps=1e9), compute_flops=1e15)
    halved = replace(device, streaming_Bps=device.streaming_Bps / 2)
    for kind in ("head", "proj", "ffn", "vocab"):
        block, cut = Block(kind, 0), Partition(vocab_shards=2)  # type: ignore[arg-type]
        slow, quick = (block_time(PACKED, block, one, 300, 1, cut) for one in (halved, device))
        assert slow == pytest.approx(2 * quick, rel=1e-12)


@pytest.mark.parametrize("partition", [Partition(), Partition(2, True, 1, "all-to-all"), Partition(2, True, 2)])
def test_tokens_and_policies_take_the_finer_numbers(partition: Partition) -> None:
    seen = replace(quickstart(), partition=partition)
    policy = make_policy("tensor-parallel", {})
    policy.reset(1)
    placement = policy.decide(seen, None)
    slower = replace(seen, devices=tuple(replace(one, model=DeviceModel(barrier_s=1e-3)) for one in seen.devices))
    plain = token_latency(seen, placement, 3)
    halves = 2 * seen.shape.layers
    assert token_latency(slower, placement, 3) >= plain + halves * 1e-3
    assert block_cost(seen.shape, Block("ffn", 0), 3).counted == block_cost(seen.shape, Block("ffn", 0), 3)[:2]


def begun(of: Experiment) -> Conditions:
    conditions = Conditions(of)
    conditions.begin()
    return conditions


def test_the_softwares_time_for_a_message_lengthens_the_devices_own_link_and_caps_its_rate() -> None:
    link = {"rate": "100 Mbit/s", "delay": "1 ms"}
    device = {"streaming": "1 GB/s", "compute": "1 GFLOP/s", "memory": "1 GiB", "storage": "1 MB/s", "link": link}
    finer = {"send": "20 us", "receive": "30 us", "send_per_byte": "1 us/B", "receive_per_byte": "1 ns/B"}
    mapping = {"source": "a", "devices": {"a": device | finer, "b": device}}
    of = Experiment.from_dict(
        {"model": {"preset": "tiny", "seed": 1}, "prompt": {"ids": [1, 2]}, "tokens": 8, "topology": mapping}
    )
    links = observe(of, begun(of), 2, 0).links
    assert (links["a"].up_bps, links["a"].down_bps) == (8e6, 1e8)
    assert (links["a"].up_delay_s, links["a"].down_delay_s) == (1e-3 + 20e-6, 1e-3 + 30e-6)
    assert (links["b"].up_bps, links["b"].up_delay_s) == (1e8, 1e-3)
    assert Topology.from_dict(mapping).device("b").model == PLAIN
