"""Heads that move during a run, over a shaped link, with their caches; and a move that fails half-way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from host_pace import judging_time
from running import Place, events, rows, save_checkpoint, topology, two_placements, write_experiment

RATE_BPS = 20e6
PROMPT = 1100  # tokens: 8 heads of 64 floats, keys and values, make 4.3 MiB
WIDTH, HEADS = 512, 8


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers with long caches and small everything else."""
    folder = tmp_path_factory.mktemp("long") / "gpt2"
    save_checkpoint(folder, layers=2, width=WIDTH, heads=HEADS, positions=PROMPT + 32, vocab=64)
    return folder


def experiment(folder: Path, checkpoint: Path, **changes: Any) -> Path:
    """Eight tokens on a slow uplink of b; at token 4 all of layer 0's heads go from b to c."""
    return write_experiment(
        folder,
        model={"path": str(checkpoint)},
        prompt={"ids": [(7 * i + i // 64) % 64 for i in range(PROMPT)]},
        tokens=8,
        policy=two_placements(folder, {"*": "a", "head(0,*)": "b"}, {"head(0,*)": "c"}),
        prefill_chunk=220,
        compute="paced",  # so that the second run's transfer comes when the first one's did
        topology=topology(b={"link": {"up": "20 Mbit/s", "down": "200 Mbit/s", "delay": "0.2 ms"}}),
        **changes,
    )


def first_and_last_byte(moved: list[dict[str, Any]]) -> tuple[float, float]:
    """When the whole transfer's payload began and ended at the receiver."""
    return min(row["first_byte_s"] for row in moved), max(row["last_byte_s"] for row in moved)


@pytest.mark.quiet
def test_a_layers_heads_move_at_the_links_rate_and_survive_its_halving(
    place: Place, checkpoint: Path, tmp_path: Path
) -> None:
    steady = place.done(experiment(tmp_path, checkpoint), "--backend", "mininet")
    moved = rows(steady.folder, "migrations")
    size = sum(row["bytes"] for row in moved)
    assert [(row["block"], row["src"], row["dst"], row["outcome"]) for row in moved] == [
        (f"head(0,{group})", "b", "c", "committed") for group in range(HEADS)
    ]
    assert size >= 4 * 2**20 and steady.summary["migrated_bytes"] == size

    first, last = first_and_last_byte(moved)
    steady_bps = 8 * size / (last - first)
    (rate,) = [row for row in rows(steady.folder, "rates") if row["how"] == "migration"]
    assert (rate["device"], rate["peer"], rate["bytes"], rate["requested_bps"]) == ("b", "c", size, RATE_BPS)
    assert rate["achieved_bps"] == pytest.approx(steady_bps)

    # The same again, the rate halved when a good third has arrived.
    halved_s = first + 0.4 * (last - first)
    (tmp_path / "halve.csv").write_text(
        f"time,target,quantity,value\n0,link/b,up,20 Mbit/s\n{halved_s:.3f},link/b,up,10 Mbit/s\n"
    )
    changed = place.done(
        experiment(tmp_path, checkpoint, traces=["halve.csv"], trace_clock="time"), "--backend", "mininet"
    )  # fmt: skip
    assert changed.summary["tokens"] == steady.summary["tokens"]
    moved = rows(changed.folder, "migrations")
    assert len(moved) == HEADS and {row["outcome"] for row in moved} == {"committed"}
    first, last = first_and_last_byte(moved)
    (step,) = events(changed.folder, "trace_applied")
    with judging_time():
        assert first < step["t_s"] < last, "the halving missed the transfer"
    mean_bps = (RATE_BPS * (step["t_s"] - first) + RATE_BPS / 2 * (last - step["t_s"])) / (last - first)

    uplink = [row for row in rows(changed.folder, "links") if (row["device"], row["direction"]) == ("b", "up")]
    before = {row["readback_bps"] for row in uplink if row["t_s"] < step["t_s"] - 0.1}
    after = {row["readback_bps"] for row in uplink if row["t_s"] > step["t_s"] + 0.1}
    with judging_time():  # another process changes the rate, perhaps between a look at the queue and its stamp
        assert [sorted(before), sorted(after)] == [
            [pytest.approx(RATE_BPS, rel=1e-3)],
            [pytest.approx(RATE_BPS / 2, rel=1e-3)],
        ]
    sent = [row["sent_bytes"] for row in uplink if row["sent_bytes"] is not None]
    assert sent == sorted(sent)
    during = [row for row in uplink if first < row["t_s"] < last and row["backlog"]]
    assert during, "nothing was queued at the link that limits the transfer"
    with judging_time():
        assert 0.90 < steady_bps / RATE_BPS < 0.97
        assert 0.90 < 8 * size / (last - first) / mean_bps < 0.97


FAILING = """
from pathlib import Path

from testbed.placement.blocks import Block, Placement, blocks_of

WEIGHTS = Path(CHECKPOINT) / "model.safetensors"
AWAY = WEIGHTS.with_suffix(".away")


class StorageFails:
    '''Asks for a move while the checkpoint cannot be read, and for the same again when it can.'''

    name = "storage-fails"

    def reset(self, seed):
        self.boundary = 0

    def decide(self, observation, placement):
        if placement is None:
            return Placement({block: "ab"[block.layer] for block in blocks_of(observation.shape)})
        self.boundary += 1
        if self.boundary == 1:
            WEIGHTS.rename(AWAY)
        elif self.boundary == 2:
            AWAY.rename(WEIGHTS)
        return placement.with_moves((Block("head", 0, group), "c") for group in range(observation.shape.kv_heads))
"""


def test_a_move_that_cannot_be_completed_is_aborted_and_no_token_is_lost(place: Place, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "gpt2", layers=2, width=64, heads=4, positions=64, vocab=64)
    (tmp_path / "policy.py").write_text(FAILING.replace("CHECKPOINT", repr(str(tmp_path / "gpt2"))))
    ended = place.done(
        write_experiment(
            tmp_path,
            model={"path": "gpt2"},
            prompt={"ids": [1, 2, 3, 4, 5, 6, 7]},
            policy=f"{tmp_path / 'policy.py'}:StorageFails",
        ),
        "--backend",
        "mininet",
    )  # fmt: skip
    moved = rows(ended.folder, "migrations")
    assert [row["outcome"] for row in moved] == 4 * ["aborted"] + 4 * ["committed"]
    assert moved[0]["epoch"] < moved[-1]["epoch"]
    (aborted,) = events(ended.folder, "migration_aborted")
    assert "device c" in aborted["reason"] and "weights could not be loaded" in aborted["reason"]
    epochs = [row["epoch"] for row in rows(ended.folder, "tokens")]
    assert epochs[:8] == 8 * [0] and set(epochs[8:]) == {moved[-1]["epoch"]}
