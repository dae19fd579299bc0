"""The estimate of a dry run: tokens, decisions and the start, in wall seconds of this machine."""

from __future__ import annotations

import pytest

from testbed.running.dry_run import dry_run


def test_a_dry_run_says_about_how_long_the_run_would_take() -> None:
    plan = dry_run("gpt2-star4", policy="round-robin", overrides=["traces=[]"])
    takes = plan["takes_s"]
    tokens_ms = plan["predicted_ttft_ms"] + (plan["tokens"] - 1) * plan["predicted_token_ms"]
    assert takes["generating"] == pytest.approx(plan["dilation"] * tokens_ms / 1e3, rel=0.05)
    assert takes["total"] == pytest.approx(takes["starting"] + takes["generating"] + takes["deciding"])
    slow = dry_run("gpt2-star4", policy="round-robin", overrides=["traces=[]", "dilation=10"])["takes_s"]
    assert slow["generating"] == pytest.approx(10 / plan["dilation"] * takes["generating"], rel=0.05)
    simulated = dry_run("gpt2-star4", policy="round-robin", overrides=["dilation=10"], backend="sim")["takes_s"]
    assert simulated["total"] < 5
