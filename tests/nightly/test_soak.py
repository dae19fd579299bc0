"""Long runs stay as they are: memory, descriptors and threads at the end are within a tenth of those at token 300.

Of `tiny` 20 runs of 450 tokens with a decision every 2, and one of `gpt2` with 1000 tokens; on the local backend, whose
controller and workers are the very same programs, so that neither root's network nor other emulated runs are waited
for. What the KV caches grow by, by the ledger's own count, is taken off. TESTBED_SOAK_RUNS and TESTBED_SOAK_TOKENS make
a shorter trial.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from killing import TO_AND_FRO, children
from running import UNJUDGED, Going, Place, topology, write_experiment

from testbed.runlog.folder import read_lines

RUNS = int(os.environ.get("TESTBED_SOAK_RUNS", "20"))
FIRST = 300
SHARE = 0.10
SLACK_BYTES = 2**20  # what an allocator may keep or give back at any time
SLACK = 2  # descriptors and threads
AFTER = 30  # tokens that a run of `tiny` goes on for after the last look, so that it is not at its end yet
BEFORE = 50  # tokens before its end that a run of `gpt2` is looked at last; what writes its tables comes later


@dataclass(frozen=True)
class Taken:
    """What a process holds; bytes are private ones, less the ledger's."""

    memory: int
    descriptors: int
    threads: int


def taken(pid: int, ledger: int) -> Taken:
    """What the process holds now."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    fields = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    private = fields["Private_Clean"] + fields["Private_Dirty"]
    return Taken(private - ledger, len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task")))


def look(going: Going, folder: Path) -> dict[str, Taken]:
    """The controller, and the workers together: blocks and their caches move from one to another."""
    record = going.record()
    assert record.init is not None
    inner = record.init.pid
    (server,) = [pid for pid in children(inner) if b"multiprocessing.forkserver" in cmdline(pid)]
    last = {row["device"]: row.get("predicted_bytes") or 0 for row in read_lines(folder / "devices.jsonl")}
    workers = [taken(pid, 0) for pid in children(server)]
    return {
        "controller": taken(inner, 0),
        "workers": Taken(
            sum(each.memory for each in workers) - sum(last.values()),
            sum(each.descriptors for each in workers),
            sum(each.threads for each in workers),
        ),
    }


def cmdline(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def tokens_of(folder: Path) -> int:
    return sum(1 for _ in read_lines(folder / "tokens.jsonl"))


def soak(place: Place, experiment: Path, first: int, last: int, patience_s: float) -> str:
    """One run, looked at at two tokens; returns what was found, and fails where it has grown."""
    with place.started(experiment, "--backend", "local", *UNJUDGED) as going:
        folder = going.folder()
        found = []
        for wanted in (first, last):
            deadline = time.monotonic() + patience_s
            while not (folder / "tokens.jsonl").exists() or tokens_of(folder) < wanted:
                assert going.process.poll() is None and time.monotonic() < deadline, going.process.communicate()
                time.sleep(0.2)
            found.append(look(going, folder))
        out, err = going.process.communicate(timeout=patience_s)
        assert going.process.returncode == 0, (out, err)
    before, after = found
    told = []
    for name in before:
        one, other = before[name], after[name]
        told.append(f"{name}: {one} at token {first}, {other} at token {last}")
        assert abs(other.memory - one.memory) <= SHARE * one.memory + SLACK_BYTES, told
        for what in ("descriptors", "threads"):
            was, now = getattr(one, what), getattr(other, what)
            assert abs(now - was) <= max(SLACK, SHARE * was), (what, told)
    return "; ".join(told)


@pytest.mark.timeout(3600)
def test_twenty_runs_with_a_decision_every_two_tokens_grow_by_nothing(place: Place, tmp_path: Path) -> None:
    tokens = int(os.environ.get("TESTBED_SOAK_TOKENS", "450"))
    (tmp_path / "policy.py").write_text(TO_AND_FRO)
    experiment = write_experiment(
        tmp_path, "soak", tokens=tokens + AFTER, interval=2,
        policy=f"{tmp_path / 'policy.py'}:ToAndFro", topology=topology(),
    )  # fmt: skip
    for number in range(RUNS):
        print(f"run {number}: {soak(place, experiment, tokens * FIRST // 450, tokens, 600)}", flush=True)
    assert place.left_behind() == []


@pytest.mark.timeout(3600)
def test_a_thousand_tokens_of_gpt2_grow_by_their_caches_alone(place: Place, tmp_path: Path) -> None:
    tokens = int(os.environ.get("TESTBED_SOAK_TOKENS", "1000"))
    big = {name: {"memory": "700 MiB"} for name in "abcd"}
    experiment = write_experiment(
        tmp_path, "soak", model={"preset": "gpt2", "seed": 7}, tokens=tokens, interval=8,
        topology=topology(**big),
    )  # fmt: skip
    print(soak(place, experiment, tokens * FIRST // 1000, tokens - BEFORE, 3000), flush=True)
