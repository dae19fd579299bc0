"""The memory that a device's limit leaves over its budget."""

from __future__ import annotations

import tracemalloc

from simulated import experiment

from testbed.emulation.memory_limits import SPAN_BYTES, WORKER_RESERVE_BYTES, reserve_bytes
from testbed.transport.messages import Collected, Span, encode
from testbed.worker.chunks import WINDOW_BYTES

SPANS = 2000


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
    assert reserve_bytes(experiment("partition={proj_rows: true}")) > WORKER_RESERVE_BYTES + 2 * partials
