"""A whole run through the command line gives the right tokens: on Mininet and on loopback, whoever places."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import QUICKSTART, Ended, Place, rows, topology, two_placements, write_experiment

QUEUED = pytest.mark.timeout(400)  # may have to wait for other emulated runs on this host
LONG_S = 380.0
HOST_ONLY = pytest.mark.host_only(reason="takes minutes in a guest; tests/sandbox runs the quick start there")


@HOST_ONLY
@QUEUED
@pytest.mark.quiet
def test_the_quickstart_moves_blocks_and_gives_the_references_bits_on_a_faithful_emulation(quickstart: Ended) -> None:
    ended = quickstart
    summary = ended.summary
    assert (summary["status"], summary["backend"], summary["verified"]) == ("done", "mininet", "bitwise")
    assert summary["verdict"]["ok"] is True and summary["migrations"] >= 1 and summary["oom_kills"] == 0
    assert len(summary["tokens"]) == 96
    assert [row["token_id"] for row in rows(ended.folder, "tokens")] == summary["tokens"]


@HOST_ONLY
@QUEUED
def test_the_quickstarts_static_placement_is_killed_by_the_kernel_when_the_squeeze_is_enforced(place: Place) -> None:
    ended = place.replay(QUICKSTART, "--backend", "mininet", "--policy", "static", timeout=LONG_S)
    assert ended.code == 5
    summary = ended.summary
    assert (summary["status"], summary["oom_kills"], len(summary["tokens"])) == ("oom", 1, 48)
    assert ended.sentence.startswith("device b ran out of memory at token 48: its blocks need ")
    assert "its budget is 16 MiB" in ended.sentence and "killed by the kernel" in ended.sentence
    assert place.left_behind() == []


@HOST_ONLY
@QUEUED
def test_the_quickstart_gives_the_references_bits_on_loopback(place: Place) -> None:
    tokens = place.done(QUICKSTART, "--backend", "local", "--tokens", "6", "--set", "traces=[]").summary["tokens"]
    assert len(set(tokens)) > 3  # not one token over and over, which any bug might give too


@pytest.mark.parametrize(
    ("name", "weights"),
    [("gpt2", "shipped"), ("llama-rope-llama3", "staged"), ("qwen2", "shipped"),
     ("qwen3-bias", "staged"), ("mistral-window", "shipped")],
)  # fmt: skip
def test_a_checkpoint_saved_by_transformers_decodes_as_there_over_four_devices_while_blocks_move(
    name: str, weights: str, place: Place, tmp_path: Path
) -> None:
    from transformers_cases import greedy_tokens, small_model

    prompt = [3, 41, 59, 26, 53, 58, 97, 93, 23, 84, 62, 64]
    model = small_model(name)
    model.save_pretrained(tmp_path / "checkpoint")
    wanted = greedy_tokens(model, prompt, len(prompt) + 32)[len(prompt) :]
    policy = two_placements(
        tmp_path,
        {"*": "a", "head(*,1)": "b", "head(1,*)": "c", "ffn(*)": "d", "proj(2)": "b"},
        {"head(*,1)": "d", "ffn(1)": "b", "proj(2)": "c"},
    )
    experiment = write_experiment(
        tmp_path,
        model={"path": str(tmp_path / "checkpoint")},
        prompt={"ids": prompt},
        tokens=32,
        policy=policy,
        weights=weights,
        topology=topology(),
    )
    ended = place.done(experiment, "--backend", "mininet", "--verify")
    assert ended.summary["tokens"] == wanted
    assert ended.summary["verified"] == "bitwise" and ended.summary["migrations"] == 4
    assert len(set(wanted)) > 5
    first = [row["device"] for row in rows(ended.folder, "placements") if row["epoch"] == 0]
    assert set(first) == set("abcd")
