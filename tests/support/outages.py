"""Runs with an outage of a link, in decode or in a migration, and how soon they go on after it."""

from __future__ import annotations

from pathlib import Path

from host_pace import judging_time
from running import UNJUDGED, Place, rows, topology, write_experiment

LINK_DELAY_S = 0.02  # of the link with the outage; all others have a millisecond
ROUND_TRIP_S = 2 * (LINK_DELAY_S + 0.001)
HOST_S = 0.05  # that a busy host may add to a message
BEGIN_S = {"decode": 0.6, "migration": 1.3}
SLOW_BPS = 1e6  # of the link while blocks move
TOKENS = {"decode": 32, "migration": 6}

TO_AND_FRO = """
from testbed.placement.blocks import Placement
from testbed.placement.patterns import expand_patterns


class ToAndFro:
    name = "to-and-fro"

    def reset(self, seed):
        self.turn = seed % 2

    def decide(self, observation, placement):
        self.turn += 1
        patterns = {{"*": "a", "head(0,*)": "b", "ffn(0)": "c"}}
        if {moving}:
            patterns |= {{"head(1,*)": "ab"[self.turn % 2], "ffn(1)": "ab"[self.turn % 2]}}
        return Placement(expand_patterns(observation, patterns))
"""


def with_outage(folder: Path, moment: str, seconds: float) -> Path:
    """An experiment in which the link of b is out for so long: while it decodes, or while it migrates nearly always."""
    folder.mkdir(exist_ok=True)
    moving = moment == "migration"
    (folder / "policy.py").write_text(TO_AND_FRO.format(moving=moving))
    begin, rate = BEGIN_S[moment], "1 Mbit/s" if moving else "10 Mbit/s"
    lines = [f"{begin},link/b,rate,0 bit/s", f"{begin + seconds},link/b,rate,{rate}"]
    (folder / "outage.csv").write_text("time,target,quantity,value\n" + "\n".join(lines) + "\n")
    links = {name: {"link": {"rate": "10 Mbit/s", "delay": "1 ms"}} for name in "acd"}
    links["b"] = {"link": {"rate": rate, "delay": f"{1e3 * LINK_DELAY_S} ms"}}
    return write_experiment(
        folder, "outage", tokens=TOKENS[moment], interval=2 if moving else 1000, delay="transport", trace_clock="time",
        weights="shipped", policy=f"{folder / 'policy.py'}:ToAndFro", topology=topology(**links),
        traces=["outage.csv"],
    )  # fmt: skip


def goes_on(place: Place, backend: str, moment: str, seconds: float) -> float:
    """Carry the run out; returns the seconds from the outage's end to the first message over the link."""
    experiment = with_outage(place.base, moment, seconds)
    ended = place.replay(experiment, "--verify", *UNJUDGED, "--backend", backend, timeout=60 + 2 * seconds)
    assert ended.code == 0, ended.err
    assert (ended.summary["status"], ended.summary["verified"]) == ("done", "bitwise")
    assert [row["step"] for row in rows(ended.folder, "tokens")] == list(range(TOKENS[moment]))
    begin_s, end_s = BEGIN_S[moment], BEGIN_S[moment] + seconds
    came = [row["end_s"] for row in rows(ended.folder, "spans") if "b" in (row["device"], row["peer"])]
    first_s = min((time_s for time_s in came if time_s >= end_s), default=end_s) - end_s
    if moment == "decode":
        with judging_time():
            assert seconds < 0.5 or not any(begin_s + 0.3 < time_s < end_s for time_s in came), "it was no outage"
        return first_s
    moves = [row for row in rows(ended.folder, "decisions") if row["moved"]]
    held = next((row for row in moves if row["t_s"] - row["stall_s"] < begin_s < row["t_s"]), None)
    with judging_time():
        assert held is not None, "no migration was hit"
    aborted = [row["bytes"] for row in rows(ended.folder, "migrations") if row["outcome"] == "aborted"]
    if aborted:  # what it had sent is on the link before any message of a token
        return max(0.0, first_s - sum(aborted) * 8 / SLOW_BPS)
    usual_s = min(row["stall_s"] for row in moves if row is not held)
    assert seconds < 0.5 or held["stall_s"] - usual_s > seconds / 2, "it was no outage"
    return max(0.0, held["stall_s"] - usual_s - seconds)
