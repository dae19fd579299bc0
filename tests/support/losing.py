"""Runs of a short quick start that lose a worker at a drawn moment, and what must come of them."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from aimed_kill import PHASES
from host_pace import judging_time
from running import QUICKSTART, UNJUDGED, Ended, Place, rows, short_place

from testbed.runlog.folder import read_json
from testbed.strict_yaml import parse_yaml

TOKENS = 12
WITHIN_S = 60.0  # the longest time in which a run may end once a device is lost
# Seconds from a phase's begin in which the kill comes, and at which of its begins at most; a commit counts by device.
LASTS = {
    "set-up": 1.2,
    "prefill": 0.4,
    "decode": 0.8,
    "decision": 0.35,
    "migration": 0.06,
    "commit": 0.0,
    "recovery": 1.0,
}
TURNS = {"decode": 2, "decision": 2, "migration": 2, "commit": 8}
POLICY = f"{Path(__file__).parent / 'aimed_kill.py'}:AimedKill"


@dataclass(frozen=True)
class Aim:
    """One run's kill: where the phase is recovery, `first` dies before `victim`."""

    phase: str
    victim: str
    first: str
    after: float
    turn: int


def aim(number: int) -> Aim:
    """The kill of this number: the phases take turns, and all else is drawn."""
    drawn, phase = random.Random(number), PHASES[number % len(PHASES)]
    victim, first = drawn.sample("bcd", 2)
    return Aim(phase, victim, first, round(drawn.uniform(0.0, LASTS[phase]), 3), drawn.randint(1, TURNS.get(phase, 1)))


def short_quickstart(folder: Path, memory: str = "140 MiB", source: str = "140 MiB", **changes: Any) -> Path:
    """The quick start with a short prompt, few tokens and no trace; with this memory two of the boards may die."""
    topology: Any = parse_yaml((QUICKSTART.parents[1] / "topologies" / "four-boards.yaml").read_text(), "four-boards")
    for device in topology["devices"].values():
        device["memory"] = memory
    topology["devices"]["a"]["memory"] = source
    mapping = {
        "model": {"preset": "smollm2-135m"}, "prompt": "Why is the sky blue?", "tokens": TOKENS, "interval": 4,
        "topology": topology, "seed": 1, "ignore_eos": True,
    }  # fmt: skip
    path = folder / "short.yaml"
    path.write_text(yaml.safe_dump(mapping | changes, sort_keys=False))
    return path


def tokens_of(folder: Path) -> list[tuple[int, str]]:
    """The token ids of a run, and the digests of their logits."""
    return [(row["token_id"], row["logits_digest"]) for row in rows(folder, "tokens")]


@cache
def undisturbed() -> list[tuple[int, str]]:
    """What a run without losses generates, which the reference has verified."""
    with short_place() as place:
        place.base.mkdir(exist_ok=True)
        experiment = short_quickstart(place.base, policy="greedy")
        return tokens_of(place.done(experiment, "--backend", "local").folder)


def lose(place: Place, kill: Aim, backend: str) -> tuple[str, Ended, float]:
    """Carry out a run with this kill; returns the phase that was hit, how the run ended, and the seconds it took."""
    place.base.mkdir(exist_ok=True)
    report = place.base / "hit.json"
    options = vars(kill) | {"report": str(report)}
    experiment = short_quickstart(place.base, policy=POLICY, policy_options=options)
    begun = time.monotonic()
    ended = place.replay(experiment, *UNJUDGED, "--backend", backend)
    took = time.monotonic() - begun
    return str(read_json(report)["phase"]), ended, took


def assert_survived(place: Place, kill: Aim, hit: str, ended: Ended, took: float) -> None:
    """Check that the run lost no token and no bit. A loss before the first token may instead end it in one sentence."""
    with judging_time():
        assert took < WITHIN_S
    assert place.left_behind() == []
    if hit == "set-up" and ended.code == 3:
        assert kill.victim in ended.sentence
        return
    assert_whole(ended)
    assert kill.victim in ended.summary["lost_devices"]


def assert_whole(ended: Ended) -> None:
    """Check that a run lost no token and no bit."""
    assert ended.code == 0, ended.err
    assert ended.summary["status"] == "done"
    assert tokens_of(ended.folder) == undisturbed()


def squeezed(place: Place, squeeze: tuple[int, str, str], memory: str, policy: str, on_oom: str) -> Ended:
    """A run on Mininet that takes nearly all memory of a device at a token, without an announcement."""
    place.base.mkdir(exist_ok=True)
    token, device, left = squeeze
    (place.base / "squeeze.csv").write_text(f"time,target,quantity,value\n{token},device/{device},memory,{left}\n")
    experiment = short_quickstart(
        place.base, memory, "44 MiB", policy=policy, traces=["squeeze.csv"], grace=0, recovery={"on_oom": on_oom}
    )
    return place.replay(experiment, *UNJUDGED, "--backend", "mininet")
