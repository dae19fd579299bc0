"""A device holds what its memory model says; a placement that it cannot hold ends the run in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from running import (
    UNJUDGED,
    Place,
    control_groups,
    events,
    interfaces,
    mentioning,
    rows,
    topology,
    write_experiment,
)

from testbed.formats import FORMATS
from testbed.runlog.folder import read_json

MIB = 2**20
SHARE, SLACK = 0.10, 4 * MIB
VOCAB = 4096  # so that the source need not hold 147 MiB of embedding

POLICY = """
from testbed.placement.blocks import Placement, blocks_of


class HalfMoves:
    '''Blocks dealt over b, c and d, or layer by layer; half of them move on at the first boundary.'''

    name = "half-moves"

    def __init__(self, by_layer=False):
        self.by_layer = by_layer

    def reset(self, seed):
        self.moved = False

    def decide(self, observation, placement):
        blocks = blocks_of(observation.shape, observation.partition)
        if placement is None:
            turn = [block.layer if self.by_layer else number for number, block in enumerate(blocks)]
            return Placement({block: "bcd"[number % 3] for block, number in zip(blocks, turn)})
        if self.moved:
            return placement
        self.moved = True
        half = [block for number, block in enumerate(blocks) if number % 4 < 2]  # heads, projections and FFNs
        following = {"b": "c", "c": "d", "d": "c"}
        return placement.with_moves((block, following[placement.devices[block]]) for block in half)
"""


@pytest.mark.parametrize(
    ("by_layer", "formats"),
    [
        (True, {}),
        (False, {"format": "float16", "kv_format": "float16"}),
        (False, {"format": "q8_0", "kv_format": "bfloat16", "wire_format": "bfloat16"}),
        (False, {"format": "q4_1"}),
    ],
    ids=["layer by layer", "float16", "q8_0", "q4_1"],
)
def test_the_ledger_is_what_the_blocks_should_take_before_and_after_half_of_them_have_moved(
    by_layer: bool, formats: dict[str, str], place: Place, tmp_path: Path
) -> None:
    (tmp_path / "policy.py").write_text(POLICY)
    roomy = {name: {"memory": "420 MiB"} for name in "abcd"}
    ended = place.replay(
        write_experiment(
            tmp_path,
            model={"preset": "gpt2", "seed": 7, "vocab": VOCAB} | formats,
            prompt={"ids": [(7 * i) % VOCAB for i in range(160)]},
            tokens=16,
            interval=8,
            topology=topology(**roomy),
            policy=f"{tmp_path / 'policy.py'}:HalfMoves",
            policy_options={"by_layer": by_layer},
        ),
        "--backend",
        "mininet",
        *UNJUDGED,
    )
    assert ended.code == 0, ended.err
    moved = rows(ended.folder, "migrations")
    assert len(moved) == 12 * 14 // 2
    begun, done = moved[0]["start_s"], max(row["t_s"] for row in rows(ended.folder, "decisions"))
    samples = [row for row in rows(ended.folder, "devices") if not begun <= row["t_s"] <= done]
    for moment in (before := at_rest(samples, until=begun)), (after := at_rest(samples, since=done)):
        assert set(moment) == set("abcd")
        for device, row in moment.items():
            assert row["ledger_bytes"] == near(row["predicted_bytes"]), (device, row)
    # It did hold and move something worth measuring.
    share = FORMATS[formats.get("format", "float32")].bits_per_element / 32
    assert min(before[device]["predicted_bytes"] for device in "bcd") > 80 * MIB * share
    grown = {device: after[device]["predicted_bytes"] - before[device]["predicted_bytes"] for device in "bcd"}
    assert grown["b"] < -20 * MIB * share and grown["c"] > 20 * MIB * share, grown


def near(predicted: int) -> Any:
    """A ledger as it should be: within 10 % and 4 MiB, which is what a worker needs beside its blocks."""
    return pytest.approx(predicted, rel=0, abs=SHARE * predicted + SLACK)


def at_rest(samples: list[dict[str, Any]], until: float = 1e9, since: float = -1.0) -> dict[str, dict[str, Any]]:
    """The last sample of each device in a span of time."""
    return {row["device"]: row for row in samples if since < row["t_s"] < until}


TIGHT = {"a": "48 MiB", "b": "40 MiB", "c": "34 MiB", "d": "28 MiB"}  # the models below take 128 to 140 MiB


@pytest.mark.parametrize(
    ("policy", "chunk", "partition"),
    [
        ("greedy", 32, {"ffn_shards": 4}),
        ("round-robin", 32, {"ffn_shards": 8, "proj_rows": True, "vocab_shards": 4}),
        ("headroom", 32, {"ffn_shards": 8, "proj_rows": True, "vocab_shards": 4}),
        ("headroom", 160, {"ffn_shards": 8}),  # the whole prompt at once
        ("headroom", 2, {"ffn_shards": 8, "proj_rows": True, "vocab_shards": 4}),  # and a long log of it
    ],
    ids=lambda of: "-".join(f"{key}{int(size)}" for key, size in of.items()) if isinstance(of, dict) else str(of),
)
def test_a_device_full_of_small_blocks_holds_what_its_ledger_says_and_is_never_killed(
    policy: str, chunk: int, partition: dict[str, Any], place: Place, tmp_path: Path
) -> None:
    ended = place.done(
        write_experiment(
            tmp_path,
            model={"preset": "gpt2", "seed": 7, "layers": 4, "vocab": VOCAB},
            prompt={"ids": [(7 * i) % VOCAB for i in range(160)]},
            prefill_chunk=chunk,
            tokens=16,
            interval=8,
            topology=topology(**{name: {"memory": size} for name, size in TIGHT.items()}),
            policy=policy,
            partition=partition,
        ),
        "--backend",
        "mininet",
    )
    assert ended.summary["oom_kills"] == 0
    first = rows(ended.folder, "tokens")[0]["latency_s"]  # until then caches grow by chunks
    samples = [row for row in rows(ended.folder, "devices") if row["t_s"] > first]
    assert {row["device"] for row in samples} == set(TIGHT)
    moving = [(row["t_s"] - row["stall_s"], row["t_s"]) for row in rows(ended.folder, "decisions") if row["moved"]]
    for row in samples:
        held, predicted = row["ledger_bytes"], row["predicted_bytes"]
        if any(begun <= row["t_s"] <= done for begun, done in moving):
            held = max(held, predicted)  # it may have let go of blocks that are still counted
        assert held == near(predicted), row
    assert max(row["predicted_bytes"] / row["budget_bytes"] for row in samples) > 0.9


def overloaded(folder: Path, preset: str, held: str = "float32", **memory: str) -> Path:
    """A fixed placement that puts everything on b, which has too little memory for it in float32."""
    return write_experiment(
        folder,
        model={"preset": preset, "seed": 7, "format": held},
        tokens=8,
        topology=topology(**{name: {"memory": memory.get(name, "420 MiB")} for name in "abcd"}),
        policy="static",
        placement={"*": "b"},
    )


@pytest.mark.parametrize(
    ("backend", "preset", "budget"),
    [("mininet", "gpt2", "96 MiB"), ("mininet", "tiny", "512 KiB"), ("local", "tiny", "512 KiB")],
    ids=["killed by the kernel", "refused by the ledger", "on loopback"],
)
def test_a_fixed_placement_that_a_device_cannot_hold_ends_the_run_and_leaves_nothing(
    backend: str, preset: str, budget: str, place: Place, tmp_path: Path
) -> None:
    before = interfaces()
    ended = place.replay(overloaded(tmp_path, preset, b=budget), "--backend", backend, *UNJUDGED)
    assert ended.code == 5
    assert ended.sentence.startswith("device b ran out of memory at token 0: its blocks need ")
    assert f"its budget is {budget}" in ended.sentence
    assert ended.summary["status"] == "oom" and ended.summary["tokens"] == []
    assert ended.summary["oom_kills"] == (1 if preset == "gpt2" else 0)
    assert len(events(ended.folder, "oom_kill")) == ended.summary["oom_kills"]
    assert place.left_behind() == [] and interfaces() <= before and mentioning(str(ended.folder)) == []
    assert control_groups(read_json(ended.folder / "manifest.json")["id"]) == []


def test_a_device_holds_in_q4_1_a_model_that_it_cannot_hold_in_float16(place: Place, tmp_path: Path) -> None:
    """Of GPT-2's layers, which are 54 MB in q4_1 and 170 MB in float16."""
    budget = "96 MiB"
    held, refused = (
        place.replay(
            overloaded(tmp_path, "gpt2", name, a=budget, b=budget, c="1 MiB", d="1 MiB"),
            "--backend",
            "mininet",
            *UNJUDGED,
        )
        for name in ("q4_1", "float16")
    )
    assert held.code == 0, held.err
    assert held.summary["oom_kills"] == 0 and len(held.summary["tokens"]) == 8
    assert refused.code == 2 and place.run_folders() == [held.folder]
    assert "and all devices together have 194 MiB: give them more memory" in refused.sentence
    killed = place.replay(overloaded(tmp_path, "gpt2", "float16", b=budget), "--backend", "mininet", *UNJUDGED)
    assert (killed.code, killed.summary["status"], killed.summary["oom_kills"]) == (5, "oom", 1)
    assert killed.sentence.startswith("device b ran out of memory at token 0: its blocks need ")
