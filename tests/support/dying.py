"""Kills the controller of a run at a moment of its work, and resumes the run."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from running import ROOT, UNJUDGED, Ended, Going, Place, rows, topology, write_experiment

from testbed.runlog.journal import JOURNAL

MOMENTS = ("set-up", "prefill", "decode", "decision", "migration", "recovery", "end")
WITHIN_S = 60.0
TOKENS = 24

WANDERING = """
import pathlib, time

from testbed.placement.blocks import Placement
from testbed.placement.patterns import expand_patterns


class Wandering:
    name = "wandering"

    def reset(self, seed):
        self.turn = seed

    def decide(self, observation, placement):
        self.turn += 1
        pathlib.Path({marker!r}).write_text(str(self.turn))
        time.sleep(0.1)
        names = [view.name for view in observation.devices if view.available_bytes > 2**20]
        one, two = (names[(self.turn + more) % len(names)] for more in (0, 1))
        return Placement(expand_patterns(observation, {{"*": "a", "head(0,*)": one, "ffn(0)": two}}))
"""


def wandering(folder: Path, **changes: Any) -> Path:
    """An experiment whose policy remembers how often it was asked, and that loses device c at token 9."""
    folder.mkdir(exist_ok=True)
    (folder / "policy.py").write_text(WANDERING.format(marker=str(folder / "asked")))
    (folder / "kills.csv").write_text("time,target,quantity,value\n9,device/c,kill,1\n")
    slow = {name: {"link": {"rate": "4 Mbit/s", "delay": "4 ms"}} for name in "abcd"}
    return write_experiment(
        folder, "wandering", tokens=TOKENS, interval=4, seed=3, policy=f"{folder / 'policy.py'}:Wandering",
        delay="transport", topology=topology(**slow), traces=["kills.csv"], prefill_chunk=8, **changes,
    )  # fmt: skip


def asked_for(backend: str) -> tuple[str, ...]:
    """The options of a run whose controller is to die."""
    return "--backend", backend, "--verify", *UNJUDGED


def kill_controller(going: Going, moment: str) -> Path:
    """Kill the controller at this moment, or once the file has so many bytes (`journal:N`); returns the run folder."""
    folder = going.folder()
    journal, record = folder / JOURNAL, going.record()
    marker = folder.parents[1] / "asked"

    def reached() -> bool | None:
        text = journal.read_text() if journal.exists() else ""
        if moment.startswith("journal:"):
            return len(text) >= int(moment.removeprefix("journal:")) or None
        found = {
            "set-up": True,
            "prefill": '"checkpoint"' in text,
            "decode": text.count('"type":"token"') >= 6,
            "decision": marker.exists() and int(marker.read_text() or 0) >= 3 + 2,
            "migration": _events(folder).count("migration_begin") > _events(folder).count("migration_done") > 0,
            "recovery": '"type":"lost"' in text,  # a checkpoint has a key `lost`
            "outage": '"quantity":"up","value":0.0' in _events(folder),
            "end": (folder / "tokens.parquet").exists() or text.count('"type":"token"') >= TOKENS,
        }[moment]
        return found or None

    deadline = time.monotonic() + WITHIN_S
    while reached() is None:
        assert time.monotonic() < deadline and going.process.poll() is None, f"{moment} was not reached"
        time.sleep(0.002)
    assert record.init is not None
    os.kill(record.init.pid, signal.SIGKILL)
    going.process.communicate(timeout=WITHIN_S)
    return folder


def resume(place: Place, folder: Path, tokens: int = TOKENS) -> Ended:
    """`testbed resume` to the end of the run, which must be that of a run that nothing has happened to."""
    ended = place.testbed("resume", folder, "--accept-unfaithful", "--json", timeout=WITHIN_S)
    assert ended.code == 0, ended.err
    assert (ended.summary["status"], ended.summary["verified"]) == ("done", "bitwise")
    assert [row["step"] for row in rows(folder, "tokens")] == list(range(tokens))
    assert not (folder / JOURNAL).exists() and place.left_behind() == []
    return ended


def resuming(place: Place, folder: Path) -> subprocess.Popen[str]:
    """`testbed resume` in the background."""
    command = place.command("resume", folder, "--accept-unfaithful", "--json")
    return subprocess.Popen(
        command, cwd=ROOT, env=place.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def decided(folder: Path) -> list[tuple[int, int]]:
    """The decisions of a run: the token at which each was made, and the blocks that it moved."""
    return [(row["step"], row["moved"]) for row in rows(folder, "decisions")]


def _events(folder: Path) -> str:
    path = folder / "events.jsonl"
    return path.read_text() if path.exists() else ""
