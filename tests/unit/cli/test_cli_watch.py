"""`testbed watch`: what it draws at several sizes, its keys, and how it bears the end of a run and of its folder."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from synthetic_run import make_run
from terminals import Terminal
from textual.pilot import Pilot

from testbed.cli import cli
from testbed.cli.watch import LOWEST
from testbed.cli.watch_app import Watch
from testbed.cli.watch_frame import frame
from testbed.runlog.folder import RunLog
from testbed.runlog.following import Follower
from testbed.running.picture import picture


def followed(folder: Path) -> Follower:
    run = Follower(folder)
    run.look()
    return run


def driven(run: Follower, drive: Callable[[Watch, Pilot[None]], Awaitable[None]], speed: float = 0.1) -> Watch:
    """A watch on a screen of 80 x 24 that a test has driven."""
    app = Watch(run, speed)

    async def go() -> None:
        async with app.run_test(size=(80, 24)) as pilot:
            await drive(app, pilot)

    asyncio.run(go())
    return app


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 60), (40, 10)])
def test_a_picture_fits_the_terminal(tmp_path: Path, width: int, height: int) -> None:
    shown = replace(picture(followed(make_run(tmp_path))), text="So the sky is blue. " * 40)
    lines = frame(shown, width, height)
    assert len(lines) <= height and max(line.cell_len for line in lines) <= width


def test_a_picture_shows_devices_latency_text_events_and_the_verdict(tmp_path: Path) -> None:
    shown = replace(picture(followed(make_run(tmp_path, "static"))), text="Because it is blue.")
    told = "\n".join(line.plain for line in frame(shown, 80, 24))
    for part in ("static on mininet", "token 48 of 96", "oom", "latency ", "predicted ", "Because it is blue.",
                 "faithful", "oom kill c", "10 Mbit/s"):  # fmt: skip
        assert part in told, part


def test_a_long_name_of_an_experiment_leaves_room_for_the_token_and_the_status(tmp_path: Path) -> None:
    shown = replace(picture(followed(make_run(tmp_path, "static"))), experiment="a-long-name-of-an-experiment" * 4)
    (heading, *_) = frame(shown, 80, 24)
    assert "…  token 48 of 96  oom  0 moved" in heading.plain and heading.cell_len <= 80


def test_a_long_verdict_takes_lines_of_the_text(tmp_path: Path) -> None:
    long = replace(
        picture(followed(make_run(tmp_path))), text="So the sky is blue. " * 40, verdict="not faithful: " + "but " * 49
    )
    lines = [line.plain for line in frame(long, 80, 22)]
    assert sum("blue" in line for line in lines) == 3 and sum("but" in line for line in lines) == 3
    assert sum("blue" in line.plain for line in frame(replace(long, verdict="faithful"), 80, 22)) == 5


@pytest.mark.parametrize(("width", "height"), [(80, 15), (80, 18), (60, 18), (80, 22)])
def test_in_a_low_terminal_devices_come_before_text_and_events(tmp_path: Path, width: int, height: int) -> None:
    shown = replace(picture(followed(make_run(tmp_path))), text="So the sky is blue. " * 40)
    lines = [line.plain for line in frame(shown, width, height)]
    devices = [line for line in lines if " MiB of " in line]
    assert [line[0] for line in devices] == ["a", "b", "c", "d"] and len(lines) <= height
    assert all(line.endswith("bit/s") for line in devices)
    assert any("blue" in line for line in lines) and " s  " in lines[-1]


def test_more_devices_than_lines_are_counted(tmp_path: Path) -> None:
    shown = picture(followed(make_run(tmp_path)))
    many = replace(shown, devices=[replace(shown.devices[0], name=f"d{number}") for number in range(25)])
    low, high = ("\n".join(line.plain for line in frame(many, 80, height)) for height in (24, 60))
    assert "more devices" in low and "more devices" not in high and "d24" in high


def test_what_a_run_says_cannot_command_the_terminal(tmp_path: Path) -> None:
    shown = replace(picture(followed(make_run(tmp_path))), text="\x1b[2J", policy="\x1b]0;x\x07")
    assert not any("\x1b" in line.plain or "\x07" in line.plain for line in frame(shown, 80, 24))


def test_a_run_that_has_ended_is_replayed_and_keys_move_in_it(tmp_path: Path) -> None:
    async def drive(app: Watch, pilot: Pilot[None]) -> None:
        assert app.at == 0
        await pilot.press("right", "right", "left")
        assert (app.at, app.paused) == (1, True)
        await pilot.press("end")
        assert app.at is None
        await pilot.press("left")
        assert app.at == 95
        await pilot.press("home")
        assert (app.at, app.paused) == (0, False)

    driven(followed(make_run(tmp_path)), drive)


def test_a_run_that_has_been_replayed_is_drawn_anew_for_another_size(tmp_path: Path) -> None:
    async def drive(app: Watch, pilot: Pilot[None]) -> None:
        await pilot.press("end")
        for width, height in ((200, 40), (60, 20)):
            await pilot.resize_terminal(width, height)
            expected = frame(picture(app.run_shown, None, app._words), width, height - 2)
            shown = [strip.text.rstrip() for strip in app.screen._compositor.render_strips()]
            assert shown[: len(expected)] == [line.plain.rstrip() for line in expected]

    driven(followed(make_run(tmp_path)), drive)


def test_a_replay_comes_to_the_end_and_stays_there(tmp_path: Path) -> None:
    async def drive(app: Watch, pilot: Pilot[None]) -> None:
        for _ in range(100):
            await pilot.pause(0.05)
            if app.at is None:
                return

    assert driven(followed(make_run(tmp_path, tokens=9)), drive, speed=100.0).at is None


def test_a_run_in_progress_is_followed_to_its_end(tmp_path: Path) -> None:
    log = RunLog.create(tmp_path, "small", "static")
    run = followed(log.folder)

    async def drive(app: Watch, pilot: Pilot[None]) -> None:
        log.row("tokens", step=0, epoch=0, prefill=True, start_s=0.0, latency_s=1.0)
        log.finish({"status": "done"})
        while run.summary is None:
            await pilot.pause(0.05)
        await pilot.pause(0.05)
        assert len(run.rows["tokens"]) == 1

    assert driven(run, drive).at is None


def test_a_folder_that_vanishes_ends_nothing(tmp_path: Path) -> None:
    run = followed(make_run(tmp_path, tokens=9, finished=False))

    async def drive(app: Watch, pilot: Pilot[None]) -> None:
        shutil.rmtree(run.folder)
        while run.trouble is None:
            await pilot.pause(0.05)
        await pilot.pause(0.05)
        assert run.trouble == f"{run.folder} is gone"
        assert "token 9 of 9  running?" in app.screen._compositor.render_strips()[0].text
        await pilot.press("left")

    assert driven(run, drive).at == 8


def test_once_prints_a_picture_without_a_terminal(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["watch", str(make_run(tmp_path)), "--once"])
    assert done.exit_code == 0 and "token 96 of 96" in done.output


@pytest.mark.parametrize("term", [None, "dumb"])
def test_without_a_terminal_it_says_what_to_do_at_the_lowest_priority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, term: str | None
) -> None:
    asked: list[int] = []
    monkeypatch.setattr("os.nice", asked.append)  # or all later tests of this process would be the nice ones
    if term is not None:  # a terminal that cannot move its cursor
        monkeypatch.setenv("TERM", term)
        monkeypatch.setattr("testbed.cli.watch.sys", SimpleNamespace(stdin=Terminal(), stdout=Terminal()))
    done = CliRunner().invoke(cli, ["watch", str(make_run(tmp_path, tokens=9))])
    assert asked == [LOWEST]
    assert "needs a terminal; with --once" in str(done.exception)


def test_what_is_no_run_is_not_watched(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "a web page", "start_url": "/"}')
    done = CliRunner().invoke(cli, ["watch", str(tmp_path), "--once"])
    assert str(done.exception).endswith("is no run folder: its manifest.json is that of something else")
