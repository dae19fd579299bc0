"""Whether Mininet can run here, and the checks that Mininet leaves out when it builds a network.

Without them it would hang, or go on with a network that lacks something. Runs and the doctor ask here and build their
networks here, so both have one answer. This module knows programs and interfaces by name, and nothing of devices.
"""

from __future__ import annotations

import importlib.util
import logging
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from testbed.emulation.capsule import can_make_capsule
from testbed.errors import EnvironmentLacks
from testbed.programs import complaint, find_program

PROGRAMS = {  # program -> its Debian package; Mininet calls all but the last
    "mnexec": "mininet",
    "brctl": "bridge-utils",
    "ip": "iproute2",
    "ifconfig": "net-tools",
    "which": "debianutils",
    "unshare": "util-linux",
}
MNEXEC_PATIENCE_S = 10.0
OPEN_FILES = 4096  # Mininet itself needs about four for each host


@dataclass(frozen=True)
class MininetSupport:
    """What keeps Mininet from running here, one phrase or sentence each."""

    missing_software: list[str]
    no_capsule: str | None  # why no capsule can be made

    @property
    def lacking(self) -> str | None:
        """One sentence on why runs with Mininet cannot be made here, or None."""
        return next(iter(self.missing_software), self.no_capsule)


def mininet_support() -> MininetSupport:
    """Find out what Mininet needs and lacks here; this makes a capsule."""
    return MininetSupport(_missing_software(), can_make_capsule())


def _missing_software() -> list[str]:
    """One phrase for each thing that runs with Mininet need and that is not installed."""
    found = []
    if importlib.util.find_spec("mininet") is None:
        found.append(
            "Mininet is not installed for this Python (Debian package `mininet`, a venv with system site packages)"
        )
    for program, package in PROGRAMS.items():
        if find_program(program) is None:
            found.append(f"the program {program} is missing (Debian package `{package}`)")
    return found


def start_mininet(topo: Any, switch: Any) -> Any:
    """A running Mininet of this topology; only for the first process of a capsule. Raises EnvironmentLacks."""
    from mininet.log import setLogLevel
    from mininet.net import Mininet

    setLogLevel("error")
    Mininet.inited = True  # else its fixLimits would rewrite the host's sysctls
    with logged_errors() as errors:
        try:
            try_mnexec()
            with few_open_files():
                net = Mininet(topo, switch=switch, controller=None)
                net.start()
            return net
        except (Exception, SystemExit) as error:  # it logs which program is missing, and exits
            said = " ".join([*errors, *([] if isinstance(error, SystemExit) and errors else [str(error)])])
            raise EnvironmentLacks(
                f"Mininet could not build the network: {' '.join(said.split())}; `testbed doctor` tells what this "
                "machine lacks"
            ) from error


@contextmanager
def logged_errors() -> Iterator[list[str]]:
    """Collect the errors that Mininet logs in the block, often the only place where it says what went wrong."""
    from mininet.log import lg

    errors: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            errors.append(record.getMessage())

    before = list(lg.handlers)
    lg.handlers[:] = [Collector(logging.ERROR)]
    try:
        yield errors
    finally:
        lg.handlers[:] = before


def try_mnexec() -> None:
    """Raise EnvironmentLacks unless mnexec starts programs; without it Mininet would wait forever for its shell."""
    try:
        trial = subprocess.run(
            ["mnexec", "true"], capture_output=True, text=True, timeout=MNEXEC_PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired:
        answer = f"it did not end within {MNEXEC_PATIENCE_S:g} s"
    except OSError as error:
        answer = error.strerror or str(error)
    else:
        if not trial.returncode:
            return
        answer = complaint(trial.returncode, trial.stderr)
    raise EnvironmentLacks(f"the program mnexec does not work ({answer}): install the package mininet again")


def check_bridge(name: str, ports: set[str]) -> None:
    """Raise EnvironmentLacks unless this bridge has all these ports, because Mininet ignores what brctl answers."""
    shown = subprocess.run(["ip", "-o", "link", "show", "master", name], capture_output=True, text=True, check=False)
    found = {line.split(":")[1].strip().partition("@")[0] for line in shown.stdout.splitlines()}
    missing = sorted(ports - found)
    if missing:
        again = subprocess.run(["brctl", "addif", name, missing[0]], capture_output=True, text=True, check=False)
        said = f"brctl: {complaint(again.returncode, again.stderr)}"
        answer = said if again.returncode else "it was made without them"
        raise EnvironmentLacks(
            f"Mininet could not build the network: the bridge {name} lacks its ports {', '.join(missing)} ({answer}); "
            "`testbed doctor` tells what this machine lacks"
        )


@contextmanager
def few_open_files() -> Iterator[None]:
    """Lower the limit of open files for programs started in the block, because mnexec closes all numbers below it.

    In User-Mode Linux, whose limit is 65536 here, that takes a second for each host.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, OPEN_FILES), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
