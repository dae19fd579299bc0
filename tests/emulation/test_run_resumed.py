"""Runs whose controller is killed, and that go on: tokens, logits and decisions are those of a run left in peace."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from dying import asked_for, decided, kill_controller, resume, resuming, wandering
from host_pace import judging_time
from running import PATIENCE_S, Place, events, rows

from testbed.runlog.journal import JOURNAL


@pytest.mark.parametrize(
    ("moment", "backend"),
    [
        ("set-up", "local"), ("decode", "mininet"), ("migration", "mininet"), ("recovery", "mininet"), ("end", "local"),
    ],
)  # fmt: skip
def test_a_run_whose_controller_is_killed_goes_on_as_if_nothing_had_happened(
    place: Place, moment: str, backend: str
) -> None:
    experiment = wandering(place.base)
    with place.started(experiment, *asked_for(backend)) as going:
        folder = kill_controller(going, moment)
    assert not (folder / "summary.json").exists()
    ended = resume(place, folder)
    assert ended.summary["resumed"] == 1 and ended.summary["lost_devices"] == ["c"]
    assert [step for step, _ in decided(folder)] == [0, 4, 8, 9, 12, 16, 20]
    (recovery,) = rows(folder, "recoveries")
    assert recovery["step"] == 9 and recovery["token_s"] is not None, "whether it was carried out before or after"
    if moment != "set-up":
        assert [row["step"] for row in events(folder, "resumed")] != []
    latencies = [row["latency_s"] for row in rows(folder, "tokens")]
    starts = [row["start_s"] for row in rows(folder, "tokens")]
    assert starts == sorted(starts)
    with judging_time():
        assert max(latencies) < 1.0, "the time in which it was dead is nobody's latency"


def test_a_resumed_run_decides_as_the_undisturbed_one(place: Place) -> None:
    experiment = wandering(place.base)
    calm = place.done(experiment, "--backend", "local")
    with place.started(experiment, *asked_for("local")) as going:
        folder = kill_controller(going, "migration")
    ended = resume(place, folder)
    assert ended.summary["tokens"] == calm.summary["tokens"]
    assert decided(folder) == decided(calm.folder)
    digests = [[row["logits_digest"] for row in rows(one, "tokens")] for one in (folder, calm.folder)]
    assert digests[0] == digests[1]


def test_a_run_may_die_again_and_again_and_leave_half_a_line(place: Place) -> None:
    experiment = wandering(place.base)
    with place.started(experiment, *asked_for("local")) as going:
        folder = kill_controller(going, "prefill")
    for wanted in (3, 12):
        with (folder / JOURNAL).open("a") as journal:
            journal.write('{"type":"token","row":{"st')
        process = resuming(place, folder)
        while (folder / JOURNAL).read_text().count('"type":"token"') < wanted:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = resuming(place, folder)  # and once before it has come to anything
    while (folder / JOURNAL).read_text().count('"type":"resumed"') < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert resume(place, folder).summary["resumed"] == 4


def test_only_a_run_that_has_died_is_resumed(place: Place) -> None:
    experiment = wandering(place.base)
    with place.started(experiment, *asked_for("local")) as going:
        folder, controller = going.until_token(6), going.record().init
        assert controller is not None
        os.kill(controller.pid, signal.SIGSTOP)  # or a busy host would have ended it before it is asked for
        refused = place.testbed("resume", folder)
        assert (refused.code, "is going on: only a run that has died" in refused.sentence) == (2, True)
        os.kill(controller.pid, signal.SIGKILL)
        going.process.communicate(timeout=PATIENCE_S)
    copy = Path(shutil.copytree(folder, folder.parent / "copy"))
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"testbed": "0.0.1"}))
    refused = place.testbed("resume", copy)
    assert (refused.code, "was begun by version 0.0.1" in refused.sentence) == (2, True)

    manifest["experiment"]["model"]["seed"] = 8
    (copy / "manifest.json").write_text(json.dumps(manifest))
    refused = place.testbed("resume", copy)
    assert (refused.code, "are not those that the run had before" in refused.sentence) == (2, True)
    assert (copy / JOURNAL).exists() and not (copy / "summary.json").exists()

    resume(place, folder)
    refused = place.testbed("resume", folder)
    assert (refused.code, "has ended (done)" in refused.sentence) == (2, True)
    simulated = place.replay(experiment, "--backend", "sim", "--set", "compute=paced")
    (simulated.folder / "summary.json").unlink()
    refused = place.testbed("resume", simulated.folder)
    assert (refused.code, "is a simulation" in refused.sentence) == (2, True)
