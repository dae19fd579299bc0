"""Runs whose model is cut finer than into heads and FFNs, with shards and sums that move: still the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import Place, rows, topology, write_experiment

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

TINY = {"preset": "tiny", "seed": 7}
PACKED = {"preset": "tiny-llama", "seed": 7, "format": "q4_1", "kv_format": "float16", "wire_format": "bfloat16"}


@pytest.mark.parametrize(
    ("backend", "weights", "partition", "kinds", "model"),
    [
        ("mininet", "staged", {"ffn_shards": 4}, {"head", "proj", "ffn", "sum"}, TINY),
        ("mininet", "shipped", {"ffn_shards": 2, "proj_rows": True}, {"head", "ffn", "sum"}, TINY),
        ("mininet", "shipped", {"ffn_shards": 4, "proj_rows": True}, {"head", "ffn", "sum"}, PACKED),
        ("local", "staged", {"ffn_shards": 8, "vocab_shards": 5}, {"head", "proj", "ffn", "sum", "vocab"}, TINY),
        ("mininet", "staged", {"ffn_shards": 4, "proj_rows": True, "exchange": "all-to-all"}, {"head", "ffn"}, TINY),
        (
            "local",
            "shipped",
            {"ffn_shards": 8, "proj_rows": True, "vocab_shards": 5, "exchange": "all-to-all"},
            {"head", "ffn", "vocab"},
            TINY,
        ),
    ],
)
def test_shards_and_sums_that_move_change_no_bit(
    place: Place,
    tmp_path: Path,
    backend: str,
    weights: str,
    partition: dict[str, object],
    kinds: set[str],
    model: dict[str, object],
) -> None:
    (tmp_path / "policy.py").write_text(POLICY)
    experiment = write_experiment(
        tmp_path, model=model, partition=partition, weights=weights, policy=f"{tmp_path / 'policy.py'}:Rotate"
    )
    ended = place.done(experiment, "--backend", backend)
    moved = rows(ended.folder, "migrations")
    assert {row["outcome"] for row in moved} == {"committed"}
    assert {row["block"].partition("(")[0] for row in moved} == kinds
    assert all("," in row["block"] for row in moved if row["block"].startswith("ffn"))
    spans = {row["block"].partition("(")[0] for row in rows(ended.folder, "spans") if row["kind"] == "block"}
    added_up = {"sum"} if "exchange" in partition else set()  # by every device, and no block
    assert spans == kinds | {"embed"} | added_up | ({"lm_head"} if "vocab" not in kinds else set())


@pytest.mark.parametrize(
    ("policy", "partition"),
    [
        ("galaxy", {"ffn_shards": 4}),
        ("headroom", {"ffn_shards": 4, "proj_rows": True, "vocab_shards": 4}),
        ("tensor-parallel", {"ffn_shards": 4, "proj_rows": True, "exchange": "all-to-all"}),
    ],
)
def test_policies_that_share_shards_out_change_no_bit_while_devices_lose_their_memory(
    place: Place, tmp_path: Path, policy: str, partition: dict[str, object]
) -> None:
    trace = tmp_path / "squeeze.csv"  # one after the other: what one has left, the other must have taken
    trace.write_text(
        "time,target,quantity,value\n4,device/b,memory,64 KiB\n8,device/b,memory,448 KiB\n8,device/c,memory,64 KiB\n"
    )
    experiment = write_experiment(
        tmp_path, partition=partition, policy=policy, traces=[str(trace)],
        topology=topology(**{name: {"memory": "448 KiB"} for name in "abcd"}),
    )  # fmt: skip
    ended = place.done(experiment, "--backend", "mininet")
    placed = {row["block"]: row["device"] for row in rows(ended.folder, "placements") if row["epoch"] == 0}
    shards = {device for block, device in placed.items() if block.startswith("ffn(") and "," in block}
    assert len(shards) > 1  # or there would be no partial sums to travel
    moved = rows(ended.folder, "migrations")
    assert moved and {row["outcome"] for row in moved} == {"committed"}
    assert {row["src"] for row in moved} & {"b", "c"}
