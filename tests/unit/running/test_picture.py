"""What a run looks like at a token, beside its tables."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_run import SQUEEZE_AT, SQUEEZED, first_placement, make_run

import testbed
from testbed.runlog.folder import RunLog, read_rows
from testbed.runlog.following import Follower
from testbed.running.picture import Picture, Text, picture


def followed(folder: Path) -> Follower:
    run = Follower(folder)
    while run.look():
        pass
    return run


def devices(shown: Picture) -> dict[str, int]:
    return {device.name: device.blocks for device in shown.devices}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Follower:
    return followed(make_run(tmp_path_factory.mktemp("runs")))


def test_a_picture_at_a_token_shows_the_tables_until_then(run: Follower) -> None:
    shown = picture(run, 41)
    latencies = [1e3 * row["latency_s"] for row in run.rows["tokens"][1:41]]
    assert shown.latency_ms == pytest.approx(latencies)
    assert (shown.done, shown.asked, shown.status) == (41, 96, "running")
    assert next(told.text for told in shown.events if "link/b" in told.text).endswith("10 Mbit/s")
    assert not any(told.fault for told in shown.events)


def test_blocks_are_counted_where_the_placement_of_that_token_has_them(run: Follower) -> None:
    first = list(first_placement().values())
    assert devices(picture(run, 8)) == {name: first.count(name) for name in "abcd"}
    moved = picture(run, 41)
    assert devices(moved)["d"] == first.count("d") + 13
    came = {device.name: (device.came, device.left) for device in moved.devices}
    assert came["d"] == (13, 0) and came["b"] == (0, 13)


def test_memory_and_links_are_those_of_the_last_sample(run: Follower) -> None:
    (c,) = (device for device in picture(run, SQUEEZE_AT + 4).devices if device.name == "c")
    assert c.budget_bytes == SQUEEZED
    (b,) = (device for device in picture(run, 41).devices if device.name == "b")
    assert b.asked_bps == {"up": 10e6, "down": 10e6}


def test_the_last_picture_of_a_run_that_has_ended_has_its_status_and_verdict(tmp_path: Path) -> None:
    shown = picture(followed(make_run(tmp_path, "static")))
    assert (shown.status, shown.verdict, shown.done) == ("oom", "faithful", 48)
    assert shown.events[-1].fault and "oom kill c" in shown.events[-1].text


def test_before_the_end_the_verdict_says_what_it_will_depend_on(tmp_path: Path) -> None:
    shown = picture(followed(make_run(tmp_path, finished=False)))
    assert shown.verdict.startswith("so far: predictions are off by ") and "2% of the cores" in shown.verdict


def test_the_text_until_a_token_is_the_beginning_of_the_whole_text(tmp_path: Path) -> None:
    run = followed(testbed.replay("quickstart", backend="sim", tokens=9, out=tmp_path).folder)
    for row, token in zip(run.rows["tokens"], (504, 6376, 314, 2842), strict=False):
        row["token_id"] = token
    text = Text(run.manifest)
    whole = text.until(run.rows["tokens"])
    assert whole and not whole.isdigit()
    assert whole.startswith(text.until(run.rows["tokens"][:2]))


def test_a_folder_with_only_a_first_manifest_has_a_picture(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"format": 1, "run": "x"}')
    shown = picture(followed(tmp_path))
    assert (shown.done, shown.devices, shown.verdict) == (0, [], "so far: nothing to judge")


def test_losses_and_recoveries_are_told_and_the_lost_device_is_marked(tmp_path: Path) -> None:
    folder = make_run(tmp_path, finished=False)
    log = RunLog(folder)
    end_s = max(row["start_s"] + row["latency_s"] for row in read_rows(folder, "tokens"))
    log.row("faults", t_s=end_s, device="c", step=96, cause="hung", recovering=True)
    times = dict.fromkeys(("noticed_s", "decided_s", "committed_s", "rebuilt_s"), end_s + 1)
    log.row("recoveries", epoch=9, step=96, devices="c", **times, predicted_s=0.5, blocks=7, loaded_bytes=1, rows=96,
            kept_rows=0)  # fmt: skip
    log.close()
    shown = picture(followed(folder))
    lost, recovered = shown.events[-2:]
    assert (lost.text, lost.fault) == ("device lost c it stood still", True)
    assert (recovered.text, recovered.fault) == ("recovered 7 blocks without c", False)
    assert [device.name for device in shown.devices if not device.alive] == ["c"]
