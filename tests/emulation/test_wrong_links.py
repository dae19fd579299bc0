"""A link whose delay, jitter or loss is not as asked makes the run unfaithful by name: netem is changed behind it."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from host_pace import judging_time
from running import Going, Place, rows, topology, write_experiment

pytestmark = [pytest.mark.quiet, pytest.mark.needs_netem, pytest.mark.timeout(300)]
FAST = {"rate": "200 Mbit/s", "delay": "1 ms"}
LINKS: dict[str, dict[str, Any]] = {
    "a": {"link": FAST},
    "b": {"link": FAST},
    "c": {"link": FAST | {"delay": "4 ms", "jitter": "3 ms"}},
    "d": {"link": FAST | {"loss": "2 %"}},
}
# All messages are between a and another device, and none meets another. Most cross the link that is to lose some.
PLACEMENT = {
    "*": "a", "head(0,*)": "b", "head(1,*)": "c", "head(2,*)": "d", "ffn(2)": "d", "head(3,*)": "d", "ffn(3)": "d",
}  # fmt: skip
NAMED = {
    "link b up": ("messages met a delay of 2", "where 1 ms is asked"),
    "link c up": ("delays vary by", "a jitter of 3 ms is asked"),
    "link d up": ("frames were lost", "a loss of 2 % is asked"),
}
UNCALIBRATED = ("--share-host", "--calibrate", "off")


def experiment(folder: Path) -> Path:
    """A run of some seconds, at life's pace in the sandbox too."""
    return write_experiment(
        folder, topology=topology(**LINKS), placement=PLACEMENT, tokens=160, interval=20, delay="netem", dilation=1
    )


def shells(going: Going) -> dict[str, int]:
    """The shell of each device, by its name, which is in the network namespace of the device."""
    found = {}
    for member in going.members():
        words = Path(f"/proc/{member.pid}/cmdline").read_bytes().decode().split("\0")
        found |= {word.removeprefix("mininet:"): member.pid for word in words if word.startswith("mininet:")}
    return found


def change(pids: Mapping[str, int], device: str, netem: str) -> None:
    """Let netem do something else on a device's uplink."""
    tc = ["tc", "qdisc", "change", "dev", f"{device}-eth0", "parent", "1:1", "handle", "2:", "netem", *netem.split()]
    subprocess.run(["nsenter", "-t", str(pids[device]), "-n", *tc], check=True)


def test_netem_that_does_something_else_than_asked_is_found_out_by_the_links_name(place: Place, tmp_path: Path) -> None:
    with place.started(experiment(tmp_path), *UNCALIBRATED) as going:
        going.until_token(1)
        pids = shells(going)
        change(pids, "b", "delay 2ms limit 1000")  # instead of 1 ms
        change(pids, "c", "delay 4ms limit 1000")  # without the jitter of 3 ms
        change(pids, "d", "delay 1ms loss 0% limit 1000")  # without the loss of 2 %
        ended = going.end()
    told = {link: reason for reason in ended.summary["verdict"]["reasons"] if (link := reason.split(":")[0]) in NAMED}
    assert ended.code in (0, 4), ended.err
    with judging_time():  # what a busy host adds hides what is wrong
        assert ended.code == 4 and set(told) == set(NAMED), ended.err
    assert all(word in told[link] for link, words in NAMED.items() for word in words), told
    assert "the emulation was not faithful" in ended.err


def test_netem_that_does_as_asked_is_faithful(place: Place, tmp_path: Path) -> None:
    ended = place.replay(experiment(tmp_path), *UNCALIBRATED)
    assert ended.code in (0, 4), ended.err
    found = {(row["device"], row["direction"]): row for row in rows(ended.folder, "delays")}
    assert set(found) == {(name, way) for name in "abcd" for way in ("up", "down")}
    with judging_time():
        assert ended.code == 0, ended.err
        for way in ("up", "down"):
            assert found["b", way]["farthest_s"] == pytest.approx(1e-3, abs=0.5e-3)
            assert found["c", way]["jitter_s"] == pytest.approx(3e-3, rel=0.5)
            assert found["d", way]["lost"] == pytest.approx(0.02 * found["d", way]["frames"], rel=0.9)
