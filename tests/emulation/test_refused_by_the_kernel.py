"""What the kernel or a program refuses while a run is set up ends in one sentence with a remedy, and leaves nothing.

The refusals are real where the kernel can be made to refuse in a private namespace: read-only control groups, programs
that are not there, a limit on user namespaces. A queueing discipline the kernel lacks is made by asking for another
name, an interface name that is taken by taking it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from running import ROOT, Ended, Place, control_groups, interfaces, mentioning, topology, write_experiment

from testbed.emulation.cgroups import detect
from testbed.emulation.mininet_checks import PROGRAMS
from testbed.runlog.folder import MANIFEST, read_json

PRIVATE_MOUNTS = ("unshare", "--mount", "--propagation", "private", "sh", "-ec")
RENAMED_QDISC = """
import socket
plain = socket.socket.send
def send(self, data, *flags):
    if self.family == socket.AF_NETLINK:
        data = bytes(data).replace(b"tbf\\0", b"bft\\0")
    return plain(self, data, *flags)
socket.socket.send = send
"""
REFUSED_FILE = """
import os
plain = os.open
def refusing(path, *arguments, **options):
    if os.fspath(path).endswith({end!r}) and {where!r} in os.fspath(path):
        raise OSError({code}, os.strerror({code}), path)
    return plain(path, *arguments, **options)
os.open = refusing
os.supports_dir_fd.add(refusing)  # as what it stands for
"""
# `ip`, which before whatever it does takes, where the switches are, the name that Mininet wants to give.
TAKING_IP = """#!/bin/sh
nsenter -t 1 --net {ip} link add {name} type {kind} 2>/dev/null
exec {ip} "$@"
"""
# `unshare`, in whose namespaces no sysctl can be written.
FREEZING_UNSHARE = """#!/bin/bash
while [ "$1" != -- ]; do options+=("$1"); shift; done; shift
freeze='mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys; exec "$@"'
exec {unshare} "${{options[@]}}" -- sh -ec "$freeze" sh "$@"
"""


def refused(
    place: Place, experiment: Path, *arguments: str, prefix: Sequence[str] = (), env: dict[str, str] | None = None
) -> str:
    """The sentence that ends a run with exit code 3; the host has nothing afterwards that it had not before."""
    before, named = interfaces(), named_namespaces()
    ended = place.replay(
        experiment, "--backend", "mininet", "--share-host", *arguments, prefix=prefix, env=place.env | (env or {}),
        timeout=60,
    )  # fmt: skip
    assert ended.code == 3, (ended.code, ended.out, ended.err)
    assert ended.out == ""
    assert place.left_behind() == [] and interfaces() <= before and named_namespaces() <= named
    run_ids = [read_json(folder / MANIFEST)["id"] for folder in place.run_folders()]
    assert [group for run_id in run_ids for group in control_groups(run_id)] == []
    assert mentioning(str(place.base)) == []
    return ended.sentence


def named_namespaces() -> set[str]:
    """Network namespaces that outlive their processes, as iproute2 keeps them."""
    return set(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else set()


def instead_of(program: str, other: str) -> list[str]:
    """A prefix under which another file lies over a program."""
    return [*PRIVATE_MOUNTS, f'mount --bind {other} {shutil.which(program, path=_path())}; exec "$@"', "sh"]


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


def patched(place: Place, program: str) -> dict[str, str]:
    """An environment in which every interpreter of a run does this first."""
    folder = place.base / "patch"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(program)
    return {"PYTHONPATH": str(folder)}


@pytest.mark.parametrize("program, package", [each for each in PROGRAMS.items() if each[0] != "which"])
def test_a_program_that_is_missing_is_named_with_its_package(
    program: str, package: str, place: Place, tmp_path: Path
) -> None:
    sentence = refused(place, write_experiment(tmp_path), prefix=instead_of(program, "/dev/null"))
    assert f"the program {program} is missing" in sentence and f"`{package}`" in sentence
    assert "--backend local" in sentence and not place.out.exists()


def test_a_path_without_the_systems_folders_is_no_hindrance(place: Place, tmp_path: Path) -> None:
    env = {key: value for key, value in place.env.items() if key != "PATH"}
    ended = place.done(write_experiment(tmp_path, tokens=2), "--backend", "mininet", env=env)
    assert ended.summary["backend"] == "mininet"


def test_what_mininet_only_logs_reaches_the_user(place: Place, tmp_path: Path) -> None:
    env = _shim(place, "which", "#!/bin/sh\nexit 1\n")
    sentence = refused(place, write_experiment(tmp_path), env=env)
    assert "Mininet could not build the network: Cannot find required executable" in sentence
    assert "testbed doctor" in sentence


def test_a_bridge_that_cannot_be_made_is_named_though_mininet_does_not_look(place: Place, tmp_path: Path) -> None:
    sentence = refused(place, write_experiment(tmp_path), prefix=instead_of("brctl", "/bin/false"))
    assert "the bridge s1 lacks its ports s1-eth1, s1-eth2" in sentence and "testbed doctor" in sentence


def test_an_mnexec_that_does_not_work_is_told_before_mininet_waits_for_it(place: Place, tmp_path: Path) -> None:
    sentence = refused(place, write_experiment(tmp_path), prefix=instead_of("mnexec", "/bin/false"))
    assert "mnexec" in sentence and "testbed doctor" in sentence


def test_a_kernel_without_the_queueing_discipline_is_told_with_its_answer(place: Place, tmp_path: Path) -> None:
    sentence = refused(place, write_experiment(tmp_path), env=patched(place, RENAMED_QDISC))
    assert "cannot shape" in sentence and "Specified qdisc kind is unknown" in sentence
    assert "testbed doctor" in sentence


@pytest.mark.parametrize("kind", ["veth", "bridge"])
def test_an_interface_name_that_is_taken_is_named(kind: str, place: Place, tmp_path: Path) -> None:
    sentence = refused(place, write_experiment(tmp_path), env=_taking(place, "s1-eth1", kind))
    assert "Mininet could not build the network" in sentence and "s1-eth1" in sentence and "testbed doctor" in sentence


def test_a_switchs_name_that_is_taken_is_named(place: Place, tmp_path: Path) -> None:
    sentence = refused(place, write_experiment(tmp_path), env=_taking(place, "s1", "veth"))
    assert "Mininet could not build the network" in sentence and "s1" in sentence and "testbed doctor" in sentence


def _taking(place: Place, name: str, kind: str) -> dict[str, str]:
    return _shim(place, "ip", TAKING_IP.format(ip=shutil.which("ip", path=_path()), name=name, kind=kind))


def _shim(place: Place, program: str, script: str) -> dict[str, str]:
    """An environment in which a script is found before a program."""
    (place.base / "bin").mkdir()
    shim = place.base / "bin" / program
    shim.write_text(script)
    shim.chmod(0o755)
    return {"PATH": f"{place.base}/bin:{_path()}"}


def _frozen_sysctls(place: Place) -> dict[str, str]:
    return _shim(place, "unshare", FREEZING_UNSHARE.format(unshare=shutil.which("unshare")))


@pytest.mark.parametrize(
    "program, script, told",
    [
        ("brctl", "#!/bin/sh\necho no bridge >&2\nexit 1\n", "lacks its ports s1-eth1, s1-eth2 (brctl: no bridge)"),
        ("mnexec", "#!/bin/sh\necho no such luck >&2\nexit 1\n", "mnexec does not work (no such luck)"),
        ("unshare", "#!/bin/sh\necho torn >&2\nexit 9\n", "the trials in a capsule failed: torn"),
    ],
)
def test_the_doctor_says_what_failed_where_a_probe_fails(program: str, script: str, told: str, place: Place) -> None:
    look = "from testbed.doctor.host_checks import examine_network; print([e for e in examine_network() if e.required])"
    command = [sys.executable, "-c", look]
    ended = subprocess.run(
        command, env=place.env | _shim(place, program, script), cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert told in ended.stdout and "ok=False" in ended.stdout and "remedy='see" in ended.stdout


def test_sysctls_that_cannot_be_written_are_noted_by_a_run_and_told_by_the_doctor(place: Place, tmp_path: Path) -> None:
    env = place.env | _frozen_sysctls(place)
    ended = place.done(write_experiment(tmp_path), "--backend", "mininet", env=env)
    (note,) = [note for note in ended.summary["verdict"]["notes"] if "tcp_slow_start_after_idle" in note]
    assert note.startswith("on a, b, c, d ") and "stays 1 (Read-only file system)" in note
    assert note in read_json(ended.folder / MANIFEST)["facts"]["notes"]
    told = place.testbed("doctor", "--json", env=env)
    (finding,) = [each for each in json.loads(told.out) if each["name"] == "sysctls"]
    assert not finding["ok"] and "tcp_slow_start_after_idle stays 1" in finding["detail"] and finding["remedy"]


def test_sysctls_in_the_way_of_devices_that_forward_are_told_with_their_file(place: Place, tmp_path: Path) -> None:
    ring = {"shape": "ring", "source": "a", "link": {"rate": "50 Mbit/s"}, "devices": topology()["devices"]}
    for device in ring["devices"].values():
        del device["link"]
    sentence = refused(place, write_experiment(tmp_path, topology=ring), env=_frozen_sysctls(place))
    assert "cannot forward" in sentence and "/proc/sys/net/ipv4/ip_forward: Read-only file system" in sentence
    assert "testbed doctor" in sentence


def _without_user_namespaces() -> list[str]:
    """A prefix for a user without rights where no user namespace may be made."""
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces; exec setpriv --ambient-caps=-all --inh-caps=-all "$@"'
    return ["unshare", "--user", "--map-user=65534", "--keep-caps", "sh", "-ec", forbid, "sh"]


def test_no_user_namespaces_are_told_with_the_sysctl_in_the_way(place: Place, tmp_path: Path) -> None:
    sentence = refused(place, write_experiment(tmp_path), prefix=_without_user_namespaces())
    assert "a capsule cannot be made" in sentence and "No space left on device" in sentence
    assert "sysctl user.max_user_namespaces=" in sentence and not place.out.exists()


def test_where_no_capsule_can_be_made_a_run_is_local_unless_asked_otherwise(place: Place, tmp_path: Path) -> None:
    ended: Ended = place.testbed(
        "replay", write_experiment(tmp_path), "--out", place.out, "--accept-unfaithful", "--json",
        prefix=_without_user_namespaces(),
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert ended.summary["backend"] == "local" and "sysctl user.max_user_namespaces=" in ended.err


def _read_only_groups() -> list[str]:
    root = detect().memory_root
    assert root is not None
    over = f"mount --bind {root} {root}; mount -o remount,bind,ro {root};"
    return [*PRIVATE_MOUNTS, f'{over} exec "$@"', "sh"]


def test_read_only_control_groups_refuse_a_quota_with_the_way_out(place: Place, tmp_path: Path) -> None:
    sentence = refused(place, write_experiment(tmp_path, compute="quota"), prefix=_read_only_groups())
    assert "Read-only file system" in sentence and "compute: paced" in sentence


def test_read_only_control_groups_leave_a_run_without_limits_that_says_so(place: Place, tmp_path: Path) -> None:
    ended = place.done(write_experiment(tmp_path), "--backend", "mininet", prefix=_read_only_groups())
    assert "not enforced" in ended.summary["memory_enforcement"]
    assert "Read-only file system" in ended.summary["memory_enforcement"]
    assert any("not enforced" in note for note in ended.summary["verdict"]["notes"])


def test_a_limit_that_the_kernel_refuses_in_the_middle_of_a_start_is_told_with_its_file(
    place: Place, tmp_path: Path
) -> None:
    limit = "memory.max" if detect().version == "v2" else "memory.limit_in_bytes"
    program = REFUSED_FILE.format(end=limit, where="/a/", code=30)
    sentence = refused(place, write_experiment(tmp_path), env=patched(place, program))
    assert limit in sentence and "Read-only file system" in sentence and "testbed doctor" in sentence
