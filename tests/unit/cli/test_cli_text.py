"""What the command line shows of a run's text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from testbed.cli import run
from testbed.cli.summary import show_summary

SMALL = str(Path(__file__).parents[3] / "experiments" / "small-scale.yaml")
SUMMARY: dict[str, Any] = {
    "policy": "greedy", "backend": "local", "status": "done", "tokens": [1, 2], "path": "runs/x",
    "text": "Because\n\tof light \x1b[2J 日本\u3000語",
}  # fmt: skip
Captured = pytest.CaptureFixture[str]


def test_the_text_comes_first_with_its_control_characters_escaped(capsys: Captured) -> None:
    show_summary(SUMMARY, reasons=True)
    assert capsys.readouterr().out.startswith("Because\n\tof light \\x1b[2J 日本\u3000語\n\npolicy")


def test_text_that_was_shown_while_it_came_is_not_repeated(capsys: Captured) -> None:
    show_summary(SUMMARY, reasons=True, text=False)
    assert capsys.readouterr().out.startswith("\npolicy")


def test_losses_are_told_with_the_time_that_they_took(capsys: Captured) -> None:
    show_summary(SUMMARY | {"lost_devices": ["b", "c"], "downtime_s": 1.234}, reasons=True)
    assert "Lost: b, c; no token came for 1.23 s.\n" in capsys.readouterr().out


def test_a_simulation_has_no_text_and_asks_for_no_end(capsys: Captured, tmp_path: Path) -> None:
    arguments = ["--backend", "sim", "--policy", "round-robin", "--tokens", "4", "--out", str(tmp_path), "--json"]
    talk = ["--set", "prompt.chat=Why?", "--set", "sampling.top_k=3"]
    assert run(["replay", SMALL, *arguments, *talk]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["text"] is None and len(summary["tokens"]) == 4
    assert summary["tpot_ms"]["mean"] >= summary["tpot_without_stalls_ms"]["mean"]
    assert summary["tokens_per_s"] == pytest.approx(4 / summary["total_s"])


@pytest.mark.parametrize("how", [["--dry-run"], ["--backend", "sim"]])
def test_sampling_over_shards_of_the_lm_head_is_refused(capsys: Captured, tmp_path: Path, how: list[str]) -> None:
    cut = ["--set", "partition.vocab_shards=2", "--set", "sampling.top_k=3", "--out", str(tmp_path / "runs")]
    assert run(["replay", SMALL, *how, *cut]) == 2
    assert "sampling needs all logits on one device" in capsys.readouterr().err
