"""Running a command in the network of one device, while `replay --hold` keeps the run's network up."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from testbed.errors import ConfigError

LIVE = "live.json"  # in the run folder while the network is up: device -> pid in the capsule

Pid = Annotated[int, msgspec.Meta(gt=0, lt=2**31)]


def run_in_device(run: Path, device: str, command: Sequence[str]) -> int:
    """Run a command in the network namespace of a device of a run, and return its exit code.

    Raises ConfigError if the run is not up or has no such device.
    """
    from testbed.emulation.state_files import find_live
    from testbed.strict_json import checked, read_object

    live = run / LIVE
    if not live.exists():
        raise ConfigError(f"{run} is not up: start it with `testbed replay EXPERIMENT --hold`")
    pids = checked(read_object(live), dict[str, Pid], str(live))
    if device not in pids:
        raise ConfigError(f"{run} has no device {device!r}: it has {', '.join(pids)}")
    state = find_live(run.resolve())
    if state is None or state.init is None:
        raise ConfigError(f"{run} is not up any more: its controller is gone; `testbed clean` removes what is left")
    # The pid of a device means something only in the capsule, so nsenter first enters its PID and mount namespaces.
    enter = ["nsenter", "-t", str(state.init.pid)]
    if os.readlink(f"/proc/{state.init.pid}/ns/user") != os.readlink("/proc/self/ns/user"):
        enter += ["--user", "--preserve-credentials"]
    inner = ["nsenter", "-t", str(pids[device]), "--net", "--", *command]
    return subprocess.run([*enter, "--pid", "--mount", "--", *inner], check=False).returncode
