"""Runs whose model is cut finer than into heads and FFNs, with shards and sums that move: still the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import Place, rows, write_experiment

POLICY = """
from testbed.placement.blocks import Placement, blocks_of


class Rotate:
    '''Deals the blocks in turn, and at each boundary every third block to the next device.'''

    name = "rotate"

    def reset(self, seed):
        self.boundary = 0

    def decide(self, observation, placement):
        names = [view.name for view in observation.devices]
        blocks = blocks_of(observation.shape, observation.partition)
        if placement is None:
            return Placement({block: names[turn % len(names)] for turn, block in enumerate(blocks)})
        self.boundary += 1
        moving = [block for turn, block in enumerate(blocks) if (turn + self.boundary) % 3 == 0]
        following = dict(zip(names, [*names[1:], names[0]]))
        return placement.with_moves((block, following[placement.devices[block]]) for block in moving)
"""


@pytest.mark.parametrize(
    ("backend", "weights", "partition", "kinds"),
    [
        ("mininet", "staged", {"ffn_shards": 4}, {"head", "proj", "ffn", "sum"}),
        ("mininet", "shipped", {"ffn_shards": 2, "proj_rows": True}, {"head", "ffn", "sum"}),
        ("local", "staged", {"ffn_shards": 8, "vocab_shards": 5}, {"head", "proj", "ffn", "sum", "vocab"}),
    ],
)
def test_shards_and_sums_that_move_change_no_bit(
    place: Place, tmp_path: Path, backend: str, weights: str, partition: dict[str, object], kinds: set[str]
) -> None:
    (tmp_path / "policy.py").write_text(POLICY)
    experiment = write_experiment(
        tmp_path, partition=partition, weights=weights, policy=f"{tmp_path / 'policy.py'}:Rotate"
    )
    ended = place.done(experiment, "--backend", backend)
    moved = rows(ended.folder, "migrations")
    assert {row["outcome"] for row in moved} == {"committed"}
    assert {row["block"].partition("(")[0] for row in moved} == kinds
    assert all("," in row["block"] for row in moved if row["block"].startswith("ffn"))
    spans = {row["block"].partition("(")[0] for row in rows(ended.folder, "spans") if row["kind"] == "block"}
    assert spans == kinds | {"embed"} | ({"lm_head"} if "vocab" not in kinds else set())
