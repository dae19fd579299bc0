"""Programs that lose a device in the middle of a pass go on with the same bits, once caches are recomputed."""

from __future__ import annotations

import itertools

from decoder_cases import CUTS, SMALL, placements
from hypothesis import given, settings
from hypothesis import strategies as st
from program_cases import PROMPT, TOKENS, Fleet, reference_tokens

from testbed.decoder.reference import ReferenceToken, chunk_bounds
from testbed.placement.blocks import Partition
from testbed.worker.program import PassResult


@given(data=st.data(), chunk=st.integers(1, 8), again=st.integers(1, 12), seed=st.integers(0, 999),
       partition=st.sampled_from(CUTS))  # fmt: skip
@settings(max_examples=30)
def test_caches_that_are_recomputed_after_losses_in_the_middle_of_passes_change_no_bit(
    data: st.DataObject, chunk: int, again: int, seed: int, partition: Partition
) -> None:
    """One or two losses, also both in one pass, where messages of the interrupted pass still arrive."""
    fleet = Fleet(SMALL, data.draw(placements(SMALL, partition=partition)), "a", seed, partition)
    tokens: list[ReferenceToken] = []
    lost = data.draw(st.permutations("bc"))[: data.draw(st.integers(1, 2))]
    losses = sorted((data.draw(st.integers(0, TOKENS - 1)), device) for device in lost)
    steps = itertools.count()

    def run(ids: list[int], chunk: int, position: int = 0, ends: bool = False) -> PassResult:
        for start, end in chunk_bounds(len(ids), chunk):
            result = fleet.run(next(steps), position + start, ids[start:end], ends and end == len(ids))
        return result

    while len(tokens) < TOKENS:
        known = [*PROMPT, *(token.token_id for token in tokens)]
        while losses and losses[0][0] == len(tokens):
            begun = len(known) - 1 if tokens else 0
            fleet.break_off(next(steps), begun, known[begun:], data.draw(st.integers(0, 12)))
            fleet.lose(losses.pop(0)[1], lambda living: data.draw(st.sampled_from(living)))
            if tokens:
                run(known[:-1], again)
        result = run(known[-1:], 1, len(known) - 1, True) if tokens else run(PROMPT, chunk, 0, True)
        tokens.append(ReferenceToken(result.token_id, result.logits_digest))
    assert tokens == reference_tokens(SMALL, chunk, partition)
