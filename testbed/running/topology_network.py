"""The network of a topology, without a run in it: measured pair by pair, or with Mininet's command line."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

from testbed.bundled import find_file
from testbed.errors import ConfigError, EnvironmentLacks, RunFailed
from testbed.running.remarks import Tell, tell_log
from testbed.topologies.model import Topology

SECONDS = 0.5  # of a transfer


def ping(
    topology: str | Path, devices: Sequence[str] = (), share_host: bool = False, tell: Tell = tell_log
) -> dict[str, Any]:
    """Build the network of a topology and ping between every two devices, or between those given.

    Returns `rows` with `from, to, asked_ms, measured_ms, lost`, and `netem`: whether links have their delays, for which
    the kernel needs netem. It waits for emulated runs on this host to end, unless `share_host` is set. Raises
    ConfigError for an unknown device, and EnvironmentLacks if no network can be built.
    """
    return _ask("ping", topology, devices, SECONDS, share_host, tell)


def iperf(
    topology: str | Path,
    devices: Sequence[str] = (),
    seconds: float = SECONDS,
    share_host: bool = False,
    tell: Tell = tell_log,
) -> dict[str, Any]:
    """Build the network of a topology and measure TCP from each device to every other, or among those given.

    Returns `rows` with `from, to, asked_bps, measured_bps, share`; `asked_bps` is the payload rate of the slowest
    link, without headers. Raises the errors of `ping`.
    """
    return _ask("iperf", topology, devices, seconds, share_host, tell)


def shell(topology: str | Path) -> int:
    """Build the network of a topology and give Mininet's command line in it; returns the exit code."""
    _, code = _in_capsule("shell", _load(topology), (), 0.0)
    return code


def _load(topology: str | Path) -> Topology:
    return Topology.load(find_file("topology", topology))


def _ask(
    what: str, source: str | Path, devices: Sequence[str], seconds: float, share_host: bool, tell: Tell
) -> dict[str, Any]:
    from testbed.emulation.host_lock import host_lock

    topology = _load(source)
    names = list(dict.fromkeys(topology.device(name).name for name in devices))
    if len(names) == 1:
        raise ConfigError(f"there is no pair with {names[0]} alone: name another device of {topology.name}, or none")
    with nullcontext() if share_host else host_lock(tell):
        answer, code = _in_capsule(what, topology, names or [device.name for device in topology.devices], seconds)
    if "rows" not in answer:
        raise RunFailed(f"the network of {topology.name} ended with code {code} before it was measured")
    return answer


def _in_capsule(what: str, topology: Topology, names: Sequence[str], seconds: float) -> tuple[dict[str, Any], int]:
    """Have `testbed.doctor.topology_probe` do something in a capsule: its answer, and its exit code."""
    from testbed.emulation.capsule import launch
    from testbed.emulation.mininet_checks import mininet_support

    lacking = mininet_support().lacking
    if lacking is not None:
        raise EnvironmentLacks(f"no network can be built here: {lacking}")
    with ExitStack() as opened:
        files = [opened.enter_context(os.fdopen(os.memfd_create(name), "w+")) for name in ("request", "answer")]
        request, answer = files
        json.dump({"topology": topology.to_dict(), "devices": list(names), "seconds": seconds}, request)
        request.flush()
        request.seek(0)
        descriptors = [file.fileno() for file in files]
        code = launch(
            [sys.executable, "-m", "testbed.doctor.topology_probe", what, *map(str, descriptors)],
            pass_fds=descriptors,
            hold_signals=True,
        )
        answer.seek(0)
        said = answer.read()
    found = json.loads(said) if said else {}
    if "error" in found:
        kinds = (ConfigError, EnvironmentLacks)
        raise next((kind for kind in kinds if kind.exit_code == found["exit_code"]), RunFailed)(found["error"])
    return found, code
