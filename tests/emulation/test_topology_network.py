"""A topology's network without a run: what `testbed ping`, `iperf` and `shell` find in it, and that nothing is left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from host_pace import judging_time
from running import interfaces

ROOT = Path(__file__).parents[2]


def asked(*arguments: str, typed: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "testbed", *arguments]
    return subprocess.run(command, cwd=ROOT, input=typed, capture_output=True, text=True, timeout=110, check=False)


def rows(*arguments: str) -> dict[str, Any]:
    done = asked(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("topology", ["four-boards", "ring5", "two-tier6"])
def test_every_two_devices_reach_each_other(topology: str) -> None:
    before = interfaces()
    found = rows("ping", topology)
    devices = {row[end] for row in found["rows"] for end in ("from", "to")}
    assert len(found["rows"]) == len(devices) * (len(devices) - 1) // 2
    for row in found["rows"]:
        assert row["lost"] == 0 or found["netem"], row
        if found["netem"]:
            assert row["measured_ms"] >= 0.9 * row["asked_ms"], row
        with judging_time():
            assert row["measured_ms"] < row["asked_ms"] + 500, row  # it does not wait until addresses are resolved
    assert interfaces() <= before


def test_tcp_gets_what_the_slowest_link_on_the_way_gives() -> None:
    found = rows("iperf", "four-boards", "a", "b")
    assert [(row["from"], row["to"]) for row in found["rows"]] == [("a", "b"), ("b", "a")]
    for row in found["rows"]:
        assert row["asked_bps"] == pytest.approx(50e6, rel=0.06)
        with judging_time():
            assert row["share"] < 1.05, row


def test_mininets_own_command_line_answers_in_the_network() -> None:
    before = interfaces()
    done = asked("shell", "four-boards", typed="pingall\nexit\n")
    assert done.returncode == 0, done.stderr
    assert "0% dropped (12/12 received)" in done.stderr, done.stderr  # where Mininet writes
    assert interfaces() <= before


def test_an_unknown_device_and_a_device_alone_are_refused() -> None:
    assert "there is no device 'z'" in asked("ping", "four-boards", "a", "z").stderr
    assert "there is no pair with a alone" in asked("iperf", "four-boards", "a").stderr
