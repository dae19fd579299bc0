"""The quickstart in the sandbox, as a user without rights: netem, limits by cgroup v2, and a host left as it was."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from guests import Sandbox, namespaces, own_groups, user
from host_pace import judging_time
from running import interfaces

TOKENS, INTERVAL = 24, 4
EVENTS = "time,target,quantity,value\n4,link/c,rate,20 Mbit/s\n12,device/b,memory,16 MiB\n"  # the quick start's, sooner
NOT_FAITHFUL = 4  # exit code of a run that was slowed down by what else went on
LOOK_EVERY_S = 5.0
PATIENCE_S = 280.0


@pytest.fixture
def untouched(sandbox: Sandbox) -> Iterator[Host]:
    """What the host has before, to be compared while a guest is up and in the end."""
    host = Host(sandbox)
    yield host
    host.compare()


class Host:
    """This host's interfaces and the user's control groups as they were, and the namespaces a guest may be in: ours."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox, self._before = sandbox, self._now()
        self.looks = 0  # at a guest

    def _now(self) -> tuple[set[str], set[str]]:
        return interfaces(), own_groups()

    def compare(self) -> None:
        """Fail where there is one more."""
        found, groups = self._now()
        assert not found - self._before[0]
        assert not groups - self._before[1]

    def look_at_guest(self, caller: int) -> None:
        """Fail where a process of a guest is in other namespaces than its caller, or the host has something new."""
        self.compare()
        spaces = namespaces(caller)
        for found in self._sandbox.namespaces():
            assert found <= spaces
            self.looks += 1


def replayed(sandbox: Sandbox, host: Host) -> tuple[int, dict[str, Any], str]:
    """Exit code, summary and errors of one run of the quickstart, whose events come sooner."""
    quickstart = user().root / "experiments" / "quickstart.yaml"
    (sandbox.home / "events.csv").write_text(EVENTS)
    sooner = ("--tokens", str(TOKENS), "--set", f"interval={INTERVAL}", "--set", f"traces=[{sandbox.home}/events.csv]")
    command = sandbox.testbed("replay", quickstart, "--set", "delay=netem", *sooner, "--verify", "--json")
    process = sandbox.start(*command, "--out", sandbox.home / "runs", options=["--timeout", f"{PATIENCE_S:.0f} s"])
    while True:
        try:
            out, err = process.communicate(timeout=LOOK_EVERY_S)
            return process.returncode, json.loads(out or "{}"), err.decode()
        except subprocess.TimeoutExpired:
            host.look_at_guest(process.pid)


@pytest.mark.quiet
@pytest.mark.timeout(PATIENCE_S + 60)
def test_an_unprivileged_quickstart_is_faithful_with_netem_and_enforced_memory_and_leaves_the_host_alone(
    sandbox: Sandbox, untouched: Host
) -> None:
    code, summary, complaint = replayed(sandbox, untouched)
    assert code in (0, NOT_FAITHFUL), complaint
    assert (summary["status"], summary["verified"], len(summary["tokens"])) == ("done", "bitwise", TOKENS)
    assert summary["oom_kills"] == 0 and summary["migrations"] > 0
    assert summary["memory_enforcement"].startswith("enforced by the kernel (cgroup v2")
    assert untouched.looks > 0
    folder = Path(summary["path"])
    facts = json.loads((folder / "manifest.json").read_text())["facts"]
    assert (facts["backend"], facts["delay"]) == ("mininet", "netem")
    assert all(planned == held for planned, held in facts["memory_limits"].values())
    kept = [folder, *folder.iterdir()]
    assert len(kept) > 5 and {path.stat().st_uid for path in kept} == {user().uid}
    with judging_time():
        assert code == 0 and summary["verdict"]["ok"], complaint
