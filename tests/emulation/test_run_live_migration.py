"""Heads whose caches are copied over a slow link while tokens go on, beside the same move with tokens stopped."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import pytest
from running import Ended, Place, events, rows, topology, two_placements, write_experiment

HEADS, ROW_BYTES, MOVES_AT = 12, 2 * 64 * 4, 4


def experiment(folder: Path, migration: str, *, prompt: int, tokens: int, layers: int) -> Path:
    """At token 4 all of layer 0's heads go from b, which has the other layers' heads, too, to c, at 20 Mbit/s."""
    return write_experiment(
        folder,
        name=migration,
        model={"preset": "gpt2", "layers": layers, "seed": 7},
        prompt={"ids": [(7 * i + i // 64) % 50000 for i in range(prompt)]},
        tokens=tokens,
        interval=MOVES_AT,
        policy=two_placements(folder, {"*": "a", "head(*,*)": "b"}, {"head(0,*)": "c"}),
        prefill_chunk=250,
        migration=migration,
        compute="paced",
        topology=topology(
            a={"memory": "1 GiB", "streaming": "1.5 GB/s"},
            b={
                "memory": "512 MiB",
                "streaming": "1.5 GB/s",
                "link": {"up": "20 Mbit/s", "down": "100 Mbit/s", "delay": "0.3 ms"},
            },
            c={"memory": "512 MiB", "streaming": "1.5 GB/s"},
        ),
    )


def sent_bytes(run: Ended) -> int:
    """What b's uplink has carried."""
    uplink = [row for row in rows(run.folder, "links") if (row["device"], row["direction"]) == ("b", "up")]
    counts = [row["sent_bytes"] for row in uplink if row["sent_bytes"] is not None]
    return int(counts[-1] - counts[0])


def digests(run: Ended) -> list[str]:
    return [row["logits_digest"] for row in rows(run.folder, "tokens")]


def stall(run: Ended) -> tuple[int, float]:
    """The token before which blocks switched, and for how long none was generated."""
    found = [(row["step"], row["stall_s"]) for row in rows(run.folder, "decisions") if row["moved"]]
    assert len(found) == 1, rows(run.folder, "decisions")
    return found[0]


def latencies(run: Ended, first: int, last: int, what: str = "latency_s") -> list[float]:
    return [row[what] for row in rows(run.folder, "tokens") if first <= row["step"] < last]


@pytest.mark.quiet
def test_heads_move_while_tokens_go_on_with_the_same_bits_and_a_tenth_of_the_stall(
    place: Place, tmp_path: Path
) -> None:
    sizes = {"prompt": 500, "tokens": 56, "layers": 2}
    stopped = place.done(experiment(tmp_path, "stop", **sizes), "--backend", "mininet")
    live = place.done(experiment(tmp_path, "live", **sizes), "--backend", "mininet")
    twin = place.replay(experiment(tmp_path, "live", **sizes), "--backend", "sim")
    assert digests(live) == digests(stopped)
    (at, long), (step, short), (twin_step, twin_short) = stall(stopped), stall(live), stall(twin)
    assert at == MOVES_AT < step
    assert 1.1 < long < 1.6 and short < 0.1 * long
    moved: list[dict[str, Any]] = rows(live.folder, "migrations")
    assert [(row["block"], row["live"], row["outcome"]) for row in moved] == [
        (f"head(0,{group})", True, "committed") for group in range(HEADS)
    ]
    assert sum(row["bytes"] for row in moved) == HEADS * ROW_BYTES * (sizes["prompt"] + step - 1)
    meanwhile = median(latencies(live, at, step))
    assert meanwhile < 1.1 * median(latencies(stopped, 1, at, "predicted_s"))
    assert meanwhile == pytest.approx(median(latencies(twin, at, step)), rel=0.1)
    assert step == pytest.approx(twin_step, rel=0.25) and short < twin_short + 0.1
    assert [row["live"] for row in events(live.folder, "migration_done")] == [True]
