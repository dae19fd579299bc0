"""Plain `mn` builds the network from a topology file. Needs root, Mininet and bridge-utils.

`mn` runs in its own PID, mount and network namespace, with host-wide sysctls and /tmp read-only, because it rewrites
sysctls when it starts and cleans up by name pattern when it fails. Those under /proc/sys/net are the namespace's own.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
ADAPTER = REPOSITORY / "topologies" / "mininet_adapter.py"
PRIVATE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--net", "--mount", "sh", "-euc"]
READ_ONLY = (
    "for d in $(find /proc/sys -mindepth 1 -maxdepth 1 ! -name net) /tmp; do "
    "mount --bind $d $d; mount -o remount,bind,ro $d; done; exec /usr/bin/mn"
)


def run_mn(topology: str, script: Path, cwd: Path) -> str:
    """What `mn` and the CLI commands in `script` print; fails the test if `mn` fails."""
    assert os.geteuid() == 0, "mn needs root: run the emulation tests as root"
    options = f"--custom {ADAPTER} --topo headroom,{topology} --switch lxbr --controller none --test none"
    command = [*PRIVATE, f"{READ_ONLY} {options} --post {script}"]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_mn_builds_a_shaped_star_whose_devices_reach_each_other(tmp_path: Path) -> None:
    script = tmp_path / "commands"
    script.write_text("b tc qdisc show dev b-eth0\nsh tc qdisc show dev s1-eth3\na ping -c 2 -W 3 d\nnet\n")
    printed = run_mn("topologies/star4.yaml", script, REPOSITORY)
    rates = re.findall(r"qdisc tbf \S+ root .*?rate (\S+)", printed)
    assert sorted(rates) == ["100Mbit", "50Mbit"], printed  # c's downlink, b's uplink
    assert " 0% packet loss" in printed
    for device in "abcd":
        assert f"{device} {device}-eth0:s1-eth" in printed


def test_mn_finds_the_packages_from_any_folder(tmp_path: Path) -> None:
    script = tmp_path / "commands"
    script.write_text("nodes\n")
    assert "a b c d s1" in run_mn("star4", script, Path("/"))


def test_in_a_ring_devices_pass_on_what_is_for_others(tmp_path: Path) -> None:
    script = tmp_path / "commands"
    script.write_text("a ping -c 2 -W 3 d\na ping -c 1 -W 3 -t 1 d\na ip route\nd tc qdisc show dev d-eth0\n")
    printed = run_mn("ring5", script, REPOSITORY)
    assert " 0% packet loss" in printed, printed
    assert "Time to live exceeded" in printed  # so d is not a neighbour
    assert re.search(r"10\.0\.0\.4 via 10\.0\.0\.5 dev a-eth1", printed), printed
    assert "30Mbit" in printed


def test_two_clusters_reach_each_other_over_the_backhaul(tmp_path: Path) -> None:
    script = tmp_path / "commands"
    script.write_text("a ping -c 2 -W 3 f\nsh tc qdisc show dev s1-eth4\nnet\n")
    printed = run_mn("two-tier6", script, REPOSITORY)
    assert " 0% packet loss" in printed and "40Mbit" in printed, printed
    assert "s1-eth4:s2-eth4" in printed
