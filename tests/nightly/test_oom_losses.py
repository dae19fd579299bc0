"""Ten kernel OOM kills by squeezes that nobody announces: survived where the rest has room, else one sentence."""

from __future__ import annotations

import random

import pytest
from losing import assert_whole, squeezed
from running import Place

MEMORY = ("64 MiB", "44 MiB", "38 MiB", "30 MiB", "22 MiB")
"""Of each board but the source, which has 44 MiB. The model takes 93 MiB: with 22 MiB no board can be spared."""


@pytest.mark.timeout(150)
@pytest.mark.parametrize("number", range(10))
def test_a_squeeze_that_nobody_announces_is_survived_where_the_rest_has_room(place: Place, number: int) -> None:
    drawn, memory = random.Random(number), MEMORY[number % len(MEMORY)]
    victim, token, left = drawn.choice("bcd"), drawn.choice([4, 8]), drawn.choice(["1 MiB", "4 MiB"])
    policy = drawn.choice(["round-robin", "greedy", "paper-search", "headroom"])
    if policy != "round-robin":  # it uses no device that it does not need
        victim, memory = "b", MEMORY[3 + number % 2]
    squeeze = (token, victim, left)
    ended = squeezed(place, squeeze, memory, policy, "recompute")
    lost = ended.summary["lost_devices"]
    print(f"\n{number}: {policy}, {memory} each, {squeeze}: code {ended.code}, lost {lost} {ended.err.strip()}")
    assert lost == [victim]
    if memory == MEMORY[-1]:
        assert ended.code == 5 and "cannot be survived" in ended.err.splitlines()[-1]
        return
    assert_whole(ended)
