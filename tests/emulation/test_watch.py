"""`testbed watch` beside emulated runs: the screen against the run's tables, and what it shows of a killed run."""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from host_pace import judging_time
from running import QUICKSTART, UNJUDGED, Going, Place, rows, topology, two_placements, write_experiment

from testbed.cli.watch_app import Watch
from testbed.runlog.following import Follower
from testbed.units import format_bytes, format_rate

LATE_S = 1.0  # what is shown is right within it
SIZES = [(80, 24), (200, 60)]
TOKENS = 20
END = "The run has ended without a summary: its controller is gone."
CHANGES = "time,target,quantity,value\n4,link/c,rate,20 Mbit/s\n12,device/b,memory,16 MiB\n"
DEVICE = re.compile(r"^(\w+) +(\d+) (?:[+-]\d+)* +[█·▒]+ (.+? of .+?)  +(.+)$")

Rows = list[dict[str, Any]]
Shown = tuple[float, list[str]]  # Unix time, and the lines of the screen


def lines(app: Watch) -> list[str]:
    """What is on its screen."""
    return [strip.text.rstrip() for strip in app.screen._compositor.render_strips()]


async def screens(going: Going, folder: Path, size: tuple[int, int]) -> list[Shown]:
    """What a watch of this size shows, ten times a second, until some time after the run's end."""
    app, seen, ended = Watch(Follower(folder), 8.0), [], None
    async with app.run_test(size=size):
        while ended is None or time.time() < ended + 2 * LATE_S:
            seen.append((time.time(), lines(app)))
            ended = ended or (None if going.process.poll() is None else time.time())
            await asyncio.sleep(0.1)
    return seen


async def side_by_side(going: Going, folder: Path) -> list[list[Shown]]:
    return await asyncio.gather(*(screens(going, folder, size) for size in SIZES))


def in_force(table: Rows, at: float, **key: Any) -> Rows:
    """The rows that held at some moment of the second before `at`."""
    known = [row for row in table if row["wall_s"] <= at and all(row[name] == value for name, value in key.items())]
    old = sum(row["wall_s"] <= at - LATE_S for row in known)
    return known[max(0, old - 1) :]


@pytest.mark.quiet
@pytest.mark.timeout(240)
def test_the_screen_is_right_within_a_second_throughout_a_run(place: Place, tmp_path: Path) -> None:
    (tmp_path / "changes.csv").write_text(CHANGES)
    slow = {name: {"link": {"rate": "100 Mbit/s", "delay": "10 ms"}} for name in "abcd"}  # 0.3 s for a token
    experiment = write_experiment(
        tmp_path, tokens=TOKENS, topology=topology(**slow), delay="transport", traces=["changes.csv"],
        policy=two_placements(tmp_path, {"*": "a", "head(*,*)": "b", "ffn(*)": "c"}, {"head(1,*)": "d", "ffn(2)": "b"}),
    )  # fmt: skip
    with place.started(experiment, *UNJUDGED) as going:
        folder = going.folder()
        seen = asyncio.run(side_by_side(going, folder))
        assert going.end().code == 0
    tokens, placements, devices, links = (rows(folder, table) for table in ("tokens", "placements", "devices", "links"))
    epochs = [
        {"wall_s": max(row["wall_s"] for row in placements if row["epoch"] == epoch),
         "blocks": Counter(row["device"] for row in placements if row["epoch"] == epoch)}
        for epoch in dict.fromkeys(row["epoch"] for row in placements)
    ]  # fmt: skip
    assert len(epochs) > 1
    with judging_time():
        for size, shown in zip(SIZES, seen, strict=True):
            checked = 0
            for at, lines in shown:
                done = int(found[1]) if (found := re.search(r"token (\d+) of", lines[0])) else 0
                finished = [sum(row["wall_s"] <= moment for row in tokens) for moment in (at - LATE_S, at)]
                assert finished[0] <= done <= finished[1], (size, at, lines[0])
                if done > 1:
                    latency = f"latency {1e3 * tokens[done - 1]['latency_s']:,.1f} ms"
                    assert any(line.startswith(latency) for line in lines), (size, latency, lines)
                for name, blocks, memory, rates in (found.groups() for line in lines if (found := DEVICE.match(line))):
                    known = in_force([{"wall_s": 0.0, "blocks": Counter()}, *epochs], at)
                    assert int(blocks) in {epoch["blocks"][name] for epoch in known}, (size, at, lines)
                    assert memory in {
                        f"{format_bytes(row['predicted_bytes'])} of {format_bytes(row['budget_bytes'])}"
                        for row in in_force(devices, at, device=name)
                    }, (size, at, lines)
                    up, down = (in_force(links, at, device=name, direction=way) for way in ("up", "down"))
                    assert rates in {
                        " / ".join(dict.fromkeys(format_rate(row["requested_bps"]) for row in pair))
                        for pair in product(up, down)
                    }, (size, at, lines)
                    checked += 1
            assert checked > 100, size
            assert f"token {TOKENS} of {TOKENS}  done" in shown[-1][1][0]


def test_the_picture_of_a_killed_run_stays_and_says_that_it_was_killed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESTBED_RUNTIME_DIR", str(place.runtime))
    with place.started(QUICKSTART, *UNJUDGED) as going:
        folder = going.folder()

        async def watch() -> list[str]:
            app = Watch(Follower(folder), 8.0)
            async with app.run_test(size=(80, 24)) as pilot:
                while len(app.run_shown.rows["tokens"]) < 3:
                    await pilot.pause(0.1)
                going.process.kill()
                going.process.wait()
                while END not in (killed := lines(app)):  # or the test's time limit ends it
                    await pilot.pause(0.1)
                shutil.rmtree(folder)
                while f"{folder} is gone; what was read of it stays here." not in app._remark:
                    await pilot.pause(0.1)
            return killed

        killed = asyncio.run(watch())
    found = re.search(r"token (\d+) of 96  running", killed[0])
    assert found is not None and int(found[1]) >= 3
