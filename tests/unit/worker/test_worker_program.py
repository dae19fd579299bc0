"""A plan carried out by several workers' programs gives the reference's bits, wherever the blocks are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from architecture_cases import cut_models
from decoder_cases import CUTS, ODD, SEED, SMALL, placements
from hypothesis import given, settings
from hypothesis import strategies as st
from program_cases import DEVICES, PROMPT, TOKENS, Fleet, Wire, reference_tokens

from testbed.decoder.reference import Reference
from testbed.decoder.store import BlockStore
from testbed.decoder.weights import RandomWeights
from testbed.errors import RunFailed
from testbed.formats import PLAIN
from testbed.placement.blocks import (
    FFN,
    WHOLE,
    Block,
    Partition,
    block_flops,
    blocks_of,
    copies_of,
    lm_head_flops,
    parse_block,
)
from testbed.placement.plan import plan_messages
from testbed.shape import ModelShape
from testbed.transport.data import Activation
from testbed.words.sampling import Sampling
from testbed.worker.pacing import Pacer
from testbed.worker.program import Pass, PassResult, Program


@given(data=st.data(), shape=st.sampled_from([SMALL, ODD]), source=st.sampled_from(DEVICES), chunk=st.integers(1, 8),
       seed=st.integers(0, 999), partition=st.sampled_from(CUTS))  # fmt: skip
@settings(max_examples=100)
def test_every_placement_and_order_of_arrival_gives_the_references_tokens_bit_for_bit(
    data: st.DataObject, shape: ModelShape, source: str, chunk: int, seed: int, partition: Partition
) -> None:
    fleet = Fleet(shape, data.draw(placements(shape, partition=partition)), source, seed, partition)
    assert fleet.generate(chunk) == reference_tokens(shape, chunk, partition)


@given(data=st.data(), cut=cut_models(), source=st.sampled_from(DEVICES), chunk=st.integers(1, 8),
       seed=st.integers(0, 999))  # fmt: skip
@settings(max_examples=120)
def test_any_model_in_any_format_cut_and_placed_anyhow_gives_the_bits_of_one_process_and_one_chunk(
    data: st.DataObject, cut: tuple[ModelShape, Partition], source: str, chunk: int, seed: int
) -> None:
    """With migrations between tokens, of heads with their caches in their format."""
    shape, partition = cut
    blocks = blocks_of(shape, partition)
    fleet = Fleet(shape, data.draw(placements(shape, partition=partition)), source, seed, partition)

    def shuffle(fleet: Fleet, length: int) -> None:
        for block in data.draw(st.lists(st.sampled_from(blocks), max_size=2, unique=True)):
            target = data.draw(st.sampled_from([name for name in DEVICES if name != fleet.where[block]]))
            fleet.migrate(block, target, length, data.draw(st.booleans()))
        fleet.switch()

    assert fleet.generate(chunk, shuffle) == reference_tokens(shape, len(PROMPT), partition)


@given(data=st.data(), source=st.sampled_from(DEVICES), chunk=st.integers(1, 8), seed=st.integers(0, 999),
       top_k=st.none() | st.integers(1, 9), top_p=st.floats(0.1, 1))  # fmt: skip
@settings(max_examples=30)
def test_every_placement_draws_the_tokens_that_the_reference_draws(
    data: st.DataObject, source: str, chunk: int, seed: int, top_k: int | None, top_p: float
) -> None:
    sampling = Sampling(seed, 2.0, top_k, top_p)
    fleet = Fleet(SMALL, data.draw(placements(SMALL)), source, seed)
    for program in fleet.programs.values():
        program.sampling = sampling
    reference = Reference(SMALL, RandomWeights(SMALL, SEED), SMALL.positions)
    assert fleet.generate(chunk) == list(reference.generate(PROMPT, TOKENS, chunk, sampling))


@given(data=st.data(), seed=st.integers(0, 999), partition=st.sampled_from(CUTS))
@settings(max_examples=60)
def test_blocks_that_move_between_tokens_change_no_bit(data: st.DataObject, seed: int, partition: Partition) -> None:
    fleet = Fleet(SMALL, data.draw(placements(SMALL, partition=partition)), "a", seed, partition)
    blocks = blocks_of(SMALL, partition)

    def shuffle(fleet: Fleet, length: int) -> None:
        moving = data.draw(st.lists(st.sampled_from(blocks), max_size=4, unique=True))
        for block in moving:
            fleet.migrate(block, data.draw(st.sampled_from([n for n in DEVICES if n != fleet.where[block]])), length)
        fleet.switch()

    assert fleet.generate(3, shuffle) == reference_tokens(SMALL, 3, partition)


@given(data=st.data(), chunk=st.integers(1, 8), partition=st.sampled_from(CUTS), wire=st.sampled_from(PLAIN))
@settings(max_examples=50)
def test_the_messages_sent_are_the_ones_the_cost_model_counts(
    data: st.DataObject, chunk: int, partition: Partition, wire: str
) -> None:
    shape = replace(SMALL, wire_format=wire)
    fleet = Fleet(shape, data.draw(placements(shape, partition=partition)), "b", 0, partition)
    fleet.run(0, 0, PROMPT[:chunk])
    rows = len(PROMPT[:chunk])
    counted = [(a, b, int(size)) for a, b, size in plan_messages(shape, fleet.plan(), rows, partition)]
    assert sorted(fleet.wire.sizes) == sorted(counted)


@pytest.mark.parametrize("partition", CUTS, ids=str)
def test_every_block_is_computed_once_a_pass_and_its_cost_is_recorded(partition: Partition) -> None:
    blocks = blocks_of(SMALL, partition)
    fleet = Fleet(SMALL, {block: DEVICES[index % 3] for index, block in enumerate(blocks)}, "a", 0, partition)
    fleet.run(0, 0, PROMPT)
    for program in fleet.programs.values():
        program.spans.clear()
    fleet.run(1, len(PROMPT), [5])
    spans = [span for program in fleet.programs.values() for span in program.spans if span.kind == "block"]
    length = len(PROMPT) + 1
    total = sum(block_flops(SMALL, block, length, 1, partition) for block in blocks)
    total += lm_head_flops(SMALL) if partition.vocab_shards == 1 else 0
    adding = {(block, device) for block in copies_of(SMALL, partition) for device in DEVICES}
    adding -= {(Block("sum", SMALL.layers - 1, FFN), device) for device in "bc"}  # who has nothing left to do
    total += sum(block_flops(SMALL, block, length, 1, partition) for block, _ in adding)
    assert sum(span.flops for span in spans) == pytest.approx(total)
    computed = []
    for span in spans:
        kind, _, numbers = span.block.removesuffix(")").partition("(")
        if kind == "vocab":
            computed += [(Block("vocab", 0, int(shard)), span.device) for shard in numbers.split(",")]
        elif kind in ("head", "ffn") and "," in numbers:  # head(0,1,2): several groups of one device, or shards
            layer, *parts = map(int, numbers.split(","))
            computed += [(Block(kind, layer, part), span.device) for part in parts]  # type: ignore[arg-type]
        elif span.block not in ("embed", "lm_head"):
            computed.append((parse_block(span.block), span.device))
    assert sorted(computed) == sorted([*fleet.where.items(), *adding])
    assert {(span.step, span.overrun) for span in spans} == {(1, False)}


@pytest.mark.parametrize("partition", [WHOLE, Partition(vocab_shards=3)], ids=str)
def test_the_lm_head_runs_for_the_last_chunk_of_the_prompt_only(partition: Partition) -> None:
    blocks = blocks_of(SMALL, partition)
    fleet = Fleet(SMALL, {block: DEVICES[index % 3] for index, block in enumerate(blocks)}, "a", 0, partition)
    assert fleet.generate(3) == reference_tokens(SMALL, 3, partition)
    spans = [span for program in fleet.programs.values() for span in program.spans if span.kind == "block"]
    heads = {span.step for span in spans if span.block.startswith(("lm_head", "vocab"))}
    assert heads == set(range(2, 2 + TOKENS))  # three chunks, of which the last one ends with a token
    assert {span.step for span in spans} == set(range(2 + TOKENS))


@given(data=st.data(), seed=st.integers(0, 99), partition=st.sampled_from(CUTS))
def test_a_worker_holds_the_values_of_one_half_layer_at_a_time(
    data: st.DataObject, seed: int, partition: Partition
) -> None:
    where = {block: data.draw(st.sampled_from(DEVICES)) for block in blocks_of(SMALL, partition)}
    fleet = Fleet(SMALL, where, "a", seed, partition)
    most = 0
    for program in fleet.programs.values():
        advance = program.advance

        def counted(advance: Any = advance, program: Program = program) -> PassResult | None:
            nonlocal most
            most = max(most, sum(map(len, program._values.values())))  # with what has just arrived
            return advance()

        program.advance = counted  # type: ignore[method-assign]
    fleet.run(0, 0, PROMPT)
    # Its x, a result of each device, and at most what the half before it, or after it, has begun with. Where devices
    # add up for themselves, results of the half after it too, of all that do not wait for this device.
    assert most <= len(DEVICES) + 2 + (0 if partition.hub else len(DEVICES) - 1)


def test_a_plan_cannot_be_switched_in_the_middle_of_a_pass() -> None:
    fleet = Fleet(SMALL, dict.fromkeys(blocks_of(SMALL), "b"), "a")
    fleet.programs["a"].begin(Pass(0, 0, (1, 2)), 0.0)
    with pytest.raises(RunFailed, match=r"device a: epoch 1 was committed in the middle of a pass"):
        fleet.programs["a"].switch(replace(fleet.plan(), epoch=1))


def test_a_message_of_another_epoch_is_refused() -> None:
    fleet = Fleet(SMALL, dict.fromkeys(blocks_of(SMALL), "b"), "a")
    fleet.programs["a"].begin(Pass(0, 0, (1, 2)), 0.0)
    fleet.programs["a"].advance()
    message = fleet.wire.take()
    assert message is not None
    fleet.programs["b"].switch(replace(fleet.plan(), epoch=7))
    with pytest.raises(RunFailed, match=r"device b: a message of epoch 0 from a in epoch 7"):
        fleet.programs["b"].accept(message[1], message[2], 0.0)


def test_work_before_a_plan_is_refused() -> None:
    program = Program("c", BlockStore(SMALL, RandomWeights(SMALL, SEED), 8), Pacer(False, 1.0), Wire(0).outbox("c"))
    with pytest.raises(RunFailed, match="device c was given work before a plan"):
        program.accept(Activation("a", 0.0, 0.0, 0.0, 0, 0, 0, "x", 0, 1, 0.0, 0.0), bytes(128), 0.0)


def test_a_device_without_blocks_takes_no_part() -> None:
    fleet = Fleet(SMALL, dict.fromkeys(blocks_of(SMALL), "b"), "a")
    fleet.generate(4)
    assert not fleet.programs["c"].spans
    assert not any("c" in pair[:2] for pair in fleet.wire.sizes)


def test_times_add_up_along_the_critical_path() -> None:
    """The source hears of the compute and transfer seconds of the path that made the token late."""
    fleet = Fleet(SMALL, dict.fromkeys(blocks_of(SMALL), "b"), "a")
    source, other = fleet.programs["a"], fleet.programs["b"]
    source.begin(Pass(0, 0, tuple(PROMPT)), 0.0)
    assert source.advance() is None
    message = fleet.wire.take()
    assert message is not None
    _, there, payload = message
    other.accept(msgspec.structs.replace(there, sent_s=1.0), payload, 1.25)  # 0.25 s on its way
    assert other.advance() is None
    message = fleet.wire.take()
    assert message is not None
    _, back, payload = message
    assert back.transfer_s == pytest.approx(0.25)
    on_b = sum(span.end_s - span.start_s for span in other.spans if span.kind == "block")
    assert back.compute_s == pytest.approx(there.compute_s + on_b)
    assert back.rows == 1, "only the last row goes back to the source"
    source.accept(msgspec.structs.replace(back, sent_s=2.0), payload, 2.5)
    result = source.advance()
    assert result is not None
    assert result.transfer_s == pytest.approx(0.75)
    lm_head = source.spans[-1]
    assert result.compute_s == pytest.approx(back.compute_s + lm_head.end_s - lm_head.start_s)
