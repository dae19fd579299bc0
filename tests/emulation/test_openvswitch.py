"""Runs whose switches are Open vSwitch: its daemons belong to the run, and a host's own are left alone.

They need the package openvswitch-switch (script/setup test installs it), and the kernel's datapath or /dev/net/tun.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from host_pace import judging_time
from running import IN_GUEST, Ended, Place, assert_they_end, mentioning, rows, topology, write_experiment

from testbed.wire import TCP_SHARE

OPENVSWITCH = ("--set", "switch=openvswitch")
RATE_BPS = 20e6
LEAST_SHARE = 0.75  # what a run's verdict asks of a probe; this host is shared
TWO_TIER = topology() | {
    "shape": "two-tier",
    "clusters": {"left": ["a", "b"], "right": ["c", "d"]},
    "backhaul": {"rate": "50 Mbit/s", "delay": "1 ms"},
}


def hidden(replacement: str, program: str) -> list[str]:
    """A prefix for commands that see another file in a program's place, in a mount namespace of their own."""
    return ["unshare", "--mount", "sh", "-c", f'mount --bind {replacement} {program} && exec "$@"', "sh"]


def facts(ended: Ended) -> dict[str, object]:
    """What the run's fleet said of itself."""
    manifest = json.loads((Path(ended.summary["path"]) / "manifest.json").read_text())
    return dict(manifest["facts"])


@pytest.mark.parametrize("shape", ["star", "two-tier"])
def test_a_run_on_open_vswitch_gives_the_references_bits_and_leaves_nothing(
    shape: str, place: Place, tmp_path: Path
) -> None:
    experiment = write_experiment(tmp_path, topology=topology() if shape == "star" else TWO_TIER)
    ended = place.done(experiment, *OPENVSWITCH)
    switch = str(facts(ended)["switch"])
    assert switch.startswith("Open vSwitch ") and (not IN_GUEST or switch.endswith(", kernel datapath"))
    assert place.left_behind() == [] and mentioning(str(place.runtime)) == []


@pytest.mark.quiet
def test_links_keep_their_rates_through_open_vswitch_and_change_them(place: Place, tmp_path: Path) -> None:
    slow = topology(b={"link": {"rate": f"{RATE_BPS / 1e6:g} Mbit/s", "delay": "0.2 ms"}})
    (tmp_path / "halve.csv").write_text(f"time,target,quantity,value\n4,link/b,rate,{RATE_BPS / 2e6:g} Mbit/s\n")
    experiment = write_experiment(tmp_path, topology=slow, traces=["halve.csv"])
    ended = place.done(experiment, *OPENVSWITCH, "--calibrate", "quick")
    for way in ("up", "down"):
        link = [row for row in rows(ended.folder, "links") if (row["device"], row["direction"]) == ("b", way)]
        held = list(dict.fromkeys(row["readback_bps"] for row in link))
        assert held == [pytest.approx(RATE_BPS, rel=1e-3), pytest.approx(RATE_BPS / 2, rel=1e-3)]
        sent = [row["sent_bytes"] for row in link if row["readback_bps"] == held[1] and row["sent_bytes"] is not None]
        assert sent[-1] > sent[0]
    probes = [row for row in rows(Path(ended.summary["path"]), "rates") if row["how"] == "probe"]
    ideal = RATE_BPS * TCP_SHARE
    shares = [row["achieved_bps"] / ideal for row in probes if "b" in (row["device"], row["peer"])]
    assert len(shares) >= 2
    with judging_time():
        assert LEAST_SHARE < min(shares) <= max(shares) < 1.03


def test_a_killed_run_takes_its_switch_daemons_along(place: Place, tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, tokens=200, interval=50)
    with place.started(experiment, *OPENVSWITCH, "--share-host") as going:
        going.until_token(1)
        programs = [Path(line.partition(" ")[0]).name for line in mentioning(str(place.runtime))]
        assert {"ovsdb-server", "ovs-vswitchd"} <= set(programs)
        members = going.members()
        going.process.kill()
        assert_they_end(members, 5.0)
    assert [line for line in mentioning(str(place.runtime)) if "ovs" in line] == []


def test_the_hosts_own_open_vswitch_is_left_alone(place: Place, tmp_path: Path) -> None:
    with hosts_open_vswitch(place.base / "host") as socket:
        before = bridges(socket)
        assert before == ["s1"]  # a name that Mininet would take, by deleting what has it
        place.done(write_experiment(tmp_path), *OPENVSWITCH, env=place.env | {"OVS_RUNDIR": str(socket.parent)})
        assert bridges(socket) == before


@contextmanager
def hosts_open_vswitch(folder: Path) -> Iterator[Path]:
    """A database as a host might have it, with a bridge s1 that nobody forwards for; yields its socket."""
    folder.mkdir(parents=True)
    socket = folder / "db.sock"
    subprocess.run(["ovsdb-tool", "create", folder / "conf.db"], check=True)
    options = [f"--remote=punix:{socket}", f"--unixctl={folder / 'ctl'}", "-vconsole:off"]
    server = subprocess.Popen(["ovsdb-server", folder / "conf.db", *options])
    try:
        wait = ["--retry", "--timeout=10", "--no-wait"]  # until the server listens
        subprocess.run(["ovs-vsctl", f"--db=unix:{socket}", *wait, "add-br", "s1"], check=True)
        yield socket
    finally:
        server.kill()
        server.wait()


def bridges(socket: Path) -> list[str]:
    command = ["ovs-vsctl", f"--db=unix:{socket}", "--no-wait", "list-br"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def test_without_its_programs_the_package_is_named(place: Place, tmp_path: Path) -> None:
    ended = place.replay(
        write_experiment(tmp_path), *OPENVSWITCH, "--share-host", prefix=hidden("/dev/null", "/usr/sbin/ovsdb-server")
    )
    assert ended.code == 3, ended.err
    assert "needs ovsdb-server: apt-get install openvswitch-switch" in ended.sentence
    assert "or use switch: linuxbridge" in ended.sentence and place.left_behind() == []


def test_without_a_datapath_the_module_and_the_sandbox_are_named(place: Place, tmp_path: Path) -> None:
    hide = '[ ! -e /dev/net ] || mount -t tmpfs none /dev/net && exec "$@"'  # User-Mode Linux has no /dev/net
    nowhere = ["unshare", "--mount", "sh", "-c", hide, "sh"]
    ended = place.replay(
        write_experiment(tmp_path), *OPENVSWITCH, "--share-host",
        prefix=[*nowhere, *hidden("/bin/false", "/usr/bin/ovs-dpctl")],
    )  # fmt: skip
    assert ended.code == 3, ended.err
    assert all(way in ended.sentence for way in ("modprobe openvswitch", "testbed sandbox --", "switch: linuxbridge"))
    assert place.left_behind() == [] and mentioning(str(place.runtime)) == []


def test_the_local_backend_has_no_switches(place: Place, tmp_path: Path) -> None:
    ended = place.replay(write_experiment(tmp_path), *OPENVSWITCH, "--backend", "local")
    assert ended.code == 2 and "switch: openvswitch needs the mininet backend" in ended.sentence
