"""Twelve heads of GPT-2 move at 950 tokens of context over 20 Mbit/s, while tokens go on and while they are stopped."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest
from live_runs import HEADS, MOVES_AT, ROW_BYTES, digests, experiment, latencies, sent_bytes, stall
from running import Place, rows

PROMPT, TOKENS = 950, 60
TOKEN_BYTES = 12 * 64 * 4  # what a token sends over the uplink for the heads that move, without headers


@pytest.mark.quiet
@pytest.mark.timeout(900)
def test_a_long_cache_moves_within_a_tenth_of_the_stall_and_a_tenth_more_bytes(place: Place, tmp_path: Path) -> None:
    sizes = {"prompt": PROMPT, "tokens": TOKENS, "layers": 12}
    stopped = place.done(experiment(tmp_path, "stop", **sizes), "--backend", "mininet", timeout=400)
    live = place.done(experiment(tmp_path, "live", **sizes), "--backend", "mininet", timeout=400)
    assert digests(live) == digests(stopped)
    (_, long), (step, short) = stall(stopped), stall(live)
    assert 2.2 < long < 2.8 and short < 0.1 * long
    meanwhile, without = latencies(live, MOVES_AT, step), latencies(stopped, 1, MOVES_AT, "predicted_s")
    assert median(meanwhile) < 1.1 * median(without)
    moved = HEADS * ROW_BYTES * (PROMPT + MOVES_AT - 1)
    assert sum(row["bytes"] for row in rows(stopped.folder, "migrations")) == moved
    stayed = TOKEN_BYTES * (step - MOVES_AT)  # until the switch their results left by the same uplink
    assert sent_bytes(live) - sent_bytes(stopped) - stayed < 0.1 * moved
