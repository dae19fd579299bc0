"""Passes keep the numbers of the tokens that they belong to, however often caches were rebuilt between them."""

from __future__ import annotations

from testbed.controller.pass_numbers import PassNumbers


def numbers(passes: PassNumbers, until: int) -> list[int | None]:
    return [passes.of(number) for number in range(until)]


def test_without_a_loss_every_pass_keeps_its_number() -> None:
    assert numbers(PassNumbers(2), 5) == [0, 1, 2, 3, 4]


def test_the_pass_that_was_interrupted_and_those_that_rebuild_belong_to_no_token() -> None:
    passes = PassNumbers(2)  # passes 0 and 1 give token 0, 2 gives token 1, and 3 is interrupted
    passes.restart(2, next_pass=4, rebuilding=3)
    assert numbers(passes, 10) == [0, 1, 2, None, None, None, None, 3, 4, 5]


def test_a_prefill_that_was_interrupted_begins_anew() -> None:
    passes = PassNumbers(3)
    passes.restart(0, next_pass=3, rebuilding=0)
    assert numbers(passes, 8) == [None, None, None, 0, 1, 2, 3, 4]


def test_the_passes_of_a_run_that_is_resumed_begin_after_caches_and_the_last_token() -> None:
    passes = PassNumbers(2)
    passes.restart(4, next_pass=0, rebuilding=3)  # so many chunks rebuild, and the next pass repeats token 4
    passes.repeat(5)
    assert numbers(passes, 6) == [None, None, None, None, 6, 7]


def test_a_run_that_is_resumed_with_one_token_repeats_its_prefill() -> None:
    passes = PassNumbers(2)
    passes.restart(0, next_pass=0, rebuilding=0)
    passes.repeat(1)
    assert numbers(passes, 4) == [None, None, 2, 3]


def test_a_loss_while_caches_are_rebuilt_voids_what_was_rebuilt() -> None:
    passes = PassNumbers(1)
    passes.restart(1, next_pass=2, rebuilding=2)  # pass 1 is interrupted, and 2 and 3 rebuild
    passes.restart(1, next_pass=4, rebuilding=2)
    assert numbers(passes, 8) == [0, None, None, None, None, None, 1, 2]
