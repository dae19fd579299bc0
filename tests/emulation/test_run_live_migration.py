"""Heads whose caches are copied over a slow link while tokens go on, beside the same move with tokens stopped."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import pytest
from dying import asked_for, kill_controller, resume, wandering
from host_pace import judging_time
from live_runs import HEADS, MOVES_AT, ROW_BYTES, digests, experiment, latencies, stall
from running import Place, events, rows


@pytest.mark.quiet
def test_heads_move_while_tokens_go_on_with_the_same_bits_and_a_tenth_of_the_stall(
    place: Place, tmp_path: Path
) -> None:
    # Few weights on slow devices: tokens take as long as with the whole vocabulary, and this host streams a third.
    sizes: dict[str, Any] = {"prompt": 500, "tokens": 56, "layers": 2, "vocab": 1024, "streaming": "0.5 GB/s"}
    stopped = place.done(experiment(tmp_path, "stop", **sizes), "--backend", "mininet")
    live = place.done(experiment(tmp_path, "live", **sizes), "--backend", "mininet")
    twin = place.replay(experiment(tmp_path, "live", **sizes), "--backend", "sim")
    assert digests(live) == digests(stopped)
    (at, long), (step, short), (twin_step, twin_short) = stall(stopped), stall(live), stall(twin)
    assert at == MOVES_AT < step
    moved: list[dict[str, Any]] = rows(live.folder, "migrations")
    assert [(row["block"], row["live"], row["outcome"]) for row in moved] == [
        (f"head(0,{group})", True, "committed") for group in range(HEADS)
    ]
    assert sum(row["bytes"] for row in moved) == HEADS * ROW_BYTES * (sizes["prompt"] + step - 1)
    assert [row["live"] for row in events(live.folder, "migration_done")] == [True]
    meanwhile = median(latencies(live, at, step))
    with judging_time():
        assert 1.1 < long < 1.6 and short < 0.1 * long
        assert meanwhile < 1.1 * median(latencies(stopped, 1, at, "predicted_s"))
        assert meanwhile == pytest.approx(median(latencies(twin, at, step)), rel=0.1)
        assert step == pytest.approx(twin_step, rel=0.25) and short < twin_short + 0.1


@pytest.mark.parametrize("moment", ["decode", "migration", "recovery"])
def test_copies_and_replicas_survive_the_deaths_of_a_device_and_of_the_controller(place: Place, moment: str) -> None:
    experiment = wandering(place.base, migration="live", recovery={"method": "replicate"})
    with place.started(experiment, *asked_for("local")) as going:
        folder = kill_controller(going, moment)
    ended = resume(place, folder)
    assert ended.summary["lost_devices"] == ["c"]
    assert any(row["live"] for row in rows(folder, "migrations"))
