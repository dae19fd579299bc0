"""The memory that a device's limit leaves over its budget."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from decoder_cases import Ones
from simulated import experiment

from testbed.decoder.store import BlockStore
from testbed.emulation.memory_limits import (
    NUMBER_BYTES,
    SPAN_BYTES,
    WORKER_RESERVE_BYTES,
    numbers_per_row,
    reserve_bytes,
)
from testbed.models.presets import PRESETS
from testbed.placement.blocks import ATTENTION, FFN, WHOLE, Partition, blocks_of
from testbed.transport.messages import Collected, Span, encode
from testbed.worker.chunks import WINDOW_BYTES

SPANS = 2000
ROWS = 128
SLACK_BYTES = 8192  # of small objects


def test_an_entry_of_the_log_of_spans_and_its_copies_take_no_more_than_is_reserved_for_it() -> None:
    tracemalloc.start()
    spans = [
        Span(step, step % 12, "block", f"head({step % 12},0,1,2,3,4,5,6,7,8,9,{step})", "a", f"d{step}", step / 7,
             step / 3, step * 1e3, step * 1e4, False, step / 9)
        for step in range(300, 300 + SPANS)
    ]  # fmt: skip
    message = encode(Collected(1, spans, 0, 0.0))
    copy = bytearray(message)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(copy) > 0
    assert SPAN_BYTES / 2 < taken / SPANS < SPAN_BYTES


def test_the_reserve_grows_with_whatever_a_worker_must_hold_beside_its_blocks() -> None:
    plain = reserve_bytes(experiment())
    assert plain > WORKER_RESERVE_BYTES + 3 * WINDOW_BYTES
    for more in ("partition={ffn_shards: 8}", "partition={proj_rows: true}", "prefill_chunk=64", "interval=48"):
        assert reserve_bytes(experiment(more)) > plain, more
    long, passes = {"ids": [1] * 900}, 899  # of one token each, beside the first one's
    small = reserve_bytes(experiment("prefill_chunk=1", prompt=long)) - reserve_bytes(experiment("prefill_chunk=1"))
    assert small > passes * 12 * 4 * SPAN_BYTES * 0.9
    partials = 12 * 768 * 4 * 32  # with rows of proj, one for each head and row of a chunk
    assert reserve_bytes(experiment("partition={proj_rows: true}")) > WORKER_RESERVE_BYTES + partials


@pytest.mark.parametrize("wire_format", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "partition", [WHOLE, Partition(8), Partition(8, proj_rows=True), Partition(2, proj_rows=True)], ids=str
)
@pytest.mark.parametrize("name", ["tiny", "tiny-llama"])
def test_no_operation_on_a_prefill_chunk_takes_more_than_is_reserved_for_activations(
    name: str, partition: Partition, wire_format: str
) -> None:
    shape = replace(PRESETS[name], layers=1, wire_format=wire_format)
    store = BlockStore(shape, Ones(), ROWS, partition)
    for block in blocks_of(shape, partition):
        store.add(block)
    groups, shards = range(shape.kv_heads), range(partition.ffn_shards)
    x = np.zeros((ROWS, shape.width), np.float32)  # (rows, D)
    attended = np.zeros((ROWS, shape.heads * shape.head_dim), np.float32)
    operations: list[Callable[[], object]] = [lambda: store.heads(0, groups, x, 0)]
    if partition.proj_rows:
        operations.append(lambda: store.sum_up(0, ATTENTION, [groups], [x], x))
    else:
        operations.append(lambda: store.proj(0, attended, x))
    if partition.ffn_shards > 1:
        operations += [lambda: store.ffn_shards(0, shards, x), lambda: store.sum_up(0, FFN, [shards], [x], x)]
    else:
        operations.append(lambda: store.ffn(0, x))
    for operate in operations:
        operate()
        tracemalloc.start()
        operate()
        taken = tracemalloc.get_traced_memory()[1] + x.nbytes
        tracemalloc.stop()
        assert taken < ROWS * numbers_per_row(shape, partition, devices=1) * NUMBER_BYTES + SLACK_BYTES
