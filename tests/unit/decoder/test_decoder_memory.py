"""Block memory: it is resident only where touched, and dropping a block gives it back to the kernel."""

from __future__ import annotations

import mmap
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from decoder_cases import WIDE, Ones, anonymous_bytes
from hypothesis import given
from hypothesis import strategies as st

from testbed.decoder.kernels import pack
from testbed.decoder.memory import KvCache, Layout, anonymous_map, map_tensors
from testbed.decoder.store import BlockStore
from testbed.formats import FORMATS, PLAIN, packed_bytes
from testbed.placement.blocks import PAGE_BYTES, TENSOR_ALIGNMENT, Block, resident_bytes, weight_bytes
from testbed.shape import ModelShape, WeightFormats

NOISE_BYTES = 4 * 2**20  # what the interpreter may take or give meanwhile
LONG = ModelShape("long", 1, 768, 12, 12, 64, 3072, 128, 8192)


@pytest.mark.parametrize("format", FORMATS)
def test_dropping_blocks_gives_their_memory_back_to_the_kernel(format: str) -> None:
    """What they take is their bytes in their format."""
    shape = replace(WIDE, weights=WeightFormats.all_in(format))
    store = BlockStore(shape, Ones(), shape.positions)
    blocks = [Block("ffn", layer) for layer in range(4)]
    before = anonymous_bytes()
    for block in blocks:
        store.add(block)
    each = weight_bytes(shape, "ffn")
    assert each == pytest.approx(2 * 768 * 3072 * FORMATS[format].bits_per_element / 8, rel=0.02)
    held = anonymous_bytes() - before
    assert 4 * each <= held + NOISE_BYTES and held <= 4 * each + NOISE_BYTES
    for block in blocks[:3]:
        store.drop(block)
    assert abs(anonymous_bytes() - before - each) < NOISE_BYTES
    assert store.blocks == [blocks[3]]
    assert store.held_bytes(0) == each


LOADED = """
from testbed.decoder.store import BlockStore
from testbed.decoder.weights import RandomWeights
from testbed.placement.blocks import Block, Partition
from testbed.models.presets import PRESETS
from testbed.worker.startup import return_large_allocations, warm_up

def anonymous():
    fields = dict(line.split(":", 1) for line in open("/proc/self/smaps_rollup").readlines()[1:])
    return 1024 * int(fields["Anonymous"].split()[0])

shape, partition = PRESETS["gpt2"], Partition(ffn_shards=8, proj_rows=True)
return_large_allocations(tight=True)
warm_up(shape, 32, partition)
store = BlockStore(shape, RandomWeights(shape, 7, partition), 64, partition)
before = anonymous()
for layer in range(2):
    for shard in range(8):
        store.add(Block("ffn", layer, shard))
print(anonymous() - before - store.held_bytes(0))
"""


def test_loading_many_small_blocks_leaves_nothing_behind_in_a_workers_heap() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True, timeout=100)
    assert abs(int(done.stdout)) < 2**20  # with glibc's own settings it is 8 MiB


def test_a_reserved_block_weighs_nothing_until_it_is_filled() -> None:
    store = BlockStore(WIDE, Ones(), WIDE.positions)
    before = anonymous_bytes()
    for layer in range(4):
        store.reserve(Block("ffn", layer))
    assert anonymous_bytes() - before < NOISE_BYTES


def test_a_kv_cache_grows_with_the_sequence_as_the_cost_model_says_and_leaves_with_its_head() -> None:
    store = BlockStore(LONG, Ones(), LONG.positions)
    blocks = [Block("head", 0, group) for group in range(12)]
    for block in blocks:
        store.add(block)
    at_zero = anonymous_bytes()
    for length in (1000, 8000):
        for block in blocks:
            for part in store.payload(block, length, with_weights=False):
                part[:] = b"\x01" * len(part)
        grown = anonymous_bytes() - at_zero
        counted = sum(resident_bytes(LONG, block, length) - resident_bytes(LONG, block, 0) for block in blocks)
        assert abs(grown - counted) < NOISE_BYTES
    for block in blocks:
        store.drop(block)
    assert anonymous_bytes() < at_zero + NOISE_BYTES


def test_held_bytes_counts_weights_whole_pages_of_kv_and_the_pinned_embedding() -> None:
    store = BlockStore(WIDE, Ones(), WIDE.positions)
    head, proj = Block("head", 0, 3), Block("proj", 0)
    store.add(head)
    store.add(proj)
    without = resident_bytes(WIDE, head, 17) + resident_bytes(WIDE, proj, 17)
    assert store.held_bytes(17) == without
    assert resident_bytes(WIDE, head, 17) == weight_bytes(WIDE, "head") + 2 * 2 * PAGE_BYTES  # 17·64·4 = 4352 bytes
    store.add_pinned()
    assert store.held_bytes(17) == without + weight_bytes(WIDE, "embed")


layouts = st.builds(
    lambda format, rows, columns: (format, rows, columns * FORMATS[format].block),
    st.sampled_from(list(FORMATS)), st.integers(1, 40), st.integers(1, 40),
)  # fmt: skip


@given(st.lists(layouts, min_size=1, max_size=5))
def test_tensors_of_one_map_start_on_cache_lines_and_do_not_overlap(drawn: list[tuple[str, int, int]]) -> None:
    tensors = map_tensors([Layout(str(index), *layout) for index, layout in enumerate(drawn)])
    for layout, tensor in zip(drawn, tensors.values(), strict=True):
        assert len(tensor.data) == packed_bytes(*layout)
        assert tensor.data.ctypes.data % TENSOR_ALIGNMENT == 0
        assert not tensor.data.any()
        tensor.data[:] = len(tensor.data) % 251
    for tensor in tensors.values():
        assert bool((tensor.data == len(tensor.data) % 251).all())


def test_a_map_is_private_whole_pages_and_zero() -> None:
    pages = anonymous_map(PAGE_BYTES + 1)
    assert isinstance(pages, mmap.mmap) and len(pages) == 2 * PAGE_BYTES
    assert not any(pages[:])


@pytest.mark.parametrize("format", PLAIN)
def test_a_caches_payload_is_its_first_rows_keys_then_values(format: str) -> None:
    cache = KvCache(8, 4, format)
    rows = [pack(format, np.arange(32, dtype=np.float32).reshape(8, 4) * sign) for sign in (1, -1)]
    for place, written in zip((cache.keys, cache.values), rows, strict=True):
        place[:] = np.frombuffer(written, np.uint8)
    size = 3 * 4 * FORMATS[format].block_bytes
    assert [bytes(part) for part in cache.payload(3)] == [written[:size] for written in rows]
    assert [len(part) for part in cache.payload(0)] == [0, 0]
