"""Attacks a running run, and checks the run afterwards."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import zmq
from running import ROOT, UNJUDGED, Going, Place, topology, two_placements, write_experiment
from trespassing import let_in, listening

from testbed.transport.messages import Failed, encode

ATTACKER = Path(__file__).with_name("attacker.py")


def lasting(folder: Path, tokens: int, delay: str) -> Path:
    """An experiment of some seconds in which devices begin to talk to new peers half-way, after the attack."""
    far = topology(**{name: {"link": {"rate": "200 Mbit/s", "delay": delay}} for name in "abcd"})
    return write_experiment(folder, tokens=tokens, interval=tokens // 2, topology=far, decision_limit="60 min")


def moving(folder: Path, gate: Path) -> str:
    first = {"*": "b", "head(*,*)": "a"}
    return two_placements(folder, first, {"head(*,*)": "c", "proj(*)": "d"}, gate)


def device_pids(going: Going) -> dict[str, int]:
    """Address in the emulated network -> a process that has it."""
    found: dict[str, int] = {}
    for member in going.members():
        said = subprocess.run(["nsenter", "-t", str(member.pid), "-n", "ip", "-4", "-o", "addr"],
                              capture_output=True, text=True, check=False).stdout  # fmt: skip
        found |= dict.fromkeys(re.findall(r"inet (10\.[0-9.]+)/", said), member.pid)
    return found


def attack(going: Going, count: int) -> int:
    """Send malformed frames from the last device's network to the data ports of the first two devices."""
    pids = device_pids(going)
    first, second, *_, last = sorted(pids)
    command = ["nsenter", "-t", str(pids[last]), "-n", sys.executable, str(ATTACKER)]
    attackers = [
        subprocess.Popen([*command, f"{address}:5555", str(count)], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                         env=os.environ | {"PYTHONPATH": str(ROOT)})
        for address in (first, second)
    ]  # fmt: skip
    said = [attacker.communicate(timeout=600)[0] for attacker in attackers]
    assert [attacker.returncode for attacker in attackers] == [0, 0], going.process.poll()
    return min(map(int, said))


def flood_controller(going: Going, count: int) -> None:
    """Send malformed frames to both sockets of the controller, as the only users that can reach them."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    folder = going.record().socket_folder
    for name, kind in (("events", zmq.PUSH), ("commands", zmq.DEALER)):
        sender = context.socket(kind)
        sender.set_hwm(0)
        sender.connect(f"ipc://{folder}/{name}")
        for number in range(count):
            broken = [os.urandom(9)] * (1 + number % 4), [b"a", os.urandom(30)], [b"stranger", encode(Failed("x", "y"))]
            sender.send_multipart(broken[number % 3])
        sender.close()
    context.term()


def survives(place: Place, folder: Path, tokens: int, count: int, delay: str) -> list[str]:
    """Check that a run gives the right tokens while it is attacked; returns the run's notes."""
    gate = folder / "attacked"
    options = ("--backend", "mininet", "--policy", moving(folder, gate), "--verify", *UNJUDGED)
    with place.started(lasting(folder, tokens, delay), *options) as going:
        going.until_token(3)
        sockets = listening(member.pid for member in going.members())
        assert len(sockets) >= 3, sockets  # two of the controller's and the forkserver's
        assert let_in(sockets) == []
        flood_controller(going, count)
        connections = attack(going, count)
        assert going.process.poll() is None
        gate.touch()
        ended = going.end()
    assert ended.code == 0, ended.err
    assert (ended.summary["status"], ended.summary["verified"]) == ("done", "bitwise")
    notes: list[str] = ended.summary["verdict"]["notes"]
    told = next(note for note in notes if "by strangers to the run were refused" in note)
    counts = {name: int(number) for number, name in re.findall(r"(\d+) on (\w+)", told)}
    assert set(counts) == {"a", "b"} and min(counts.values()) >= connections, (told, connections)
    assert f"{2 * count} frames on the controller's sockets were dropped, because no device sent them" in notes
    return notes
