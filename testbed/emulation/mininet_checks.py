"""Whether Mininet can run here, and what it does not look at when it builds a network, and would hang or go on without.

Knows programs and interfaces by name, nothing of devices. Runs and the doctor build their networks here, so that both
have one answer.
"""

from __future__ import annotations

import importlib.util
import logging
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from testbed.emulation.capsule import can_make_capsule
from testbed.errors import EnvironmentLacks
from testbed.programs import complaint, find_program

PROGRAMS = {  # -> their Debian packages; Mininet calls all but the last
    "mnexec": "mininet",
    "brctl": "bridge-utils",
    "ip": "iproute2",
    "ifconfig": "net-tools",
    "which": "debianutils",
    "unshare": "util-linux",
}
MNEXEC_PATIENCE_S = 10.0
OPEN_FILES = 4096  # Mininet itself keeps some four for each host


def lacking_software() -> list[str]:
    """One phrase for each thing that Mininet runs need installed and that is not."""
    found = []
    if importlib.util.find_spec("mininet") is None:
        found.append(
            "Mininet is not installed for this Python (Debian package `mininet`, a venv with system site packages)"
        )
    for program, package in PROGRAMS.items():
        if find_program(program) is None:
            found.append(f"the program {program} is missing (Debian package `{package}`)")
    return found


def lacking_for_mininet() -> str | None:
    """One sentence on why Mininet runs cannot be made here, or None."""
    return next(iter(lacking_software()), None) or can_make_capsule()


def start_mininet(topo: Any, switch: Any) -> Any:
    """A Mininet of this topology, up; only for the first process of a capsule. Raises EnvironmentLacks."""
    from mininet.log import setLogLevel
    from mininet.net import Mininet

    setLogLevel("error")
    Mininet.inited = True  # its fixLimits rewrites the host's sysctls
    with heard() as errors:
        try:
            try_mnexec()
            with few_open_files():
                net = Mininet(topo, switch=switch, controller=None)
                net.start()
            return net
        except (Exception, SystemExit) as error:  # Mininet exits where a program is missing, after logging which
            said = " ".join([*errors, *([] if isinstance(error, SystemExit) and errors else [str(error)])])
            raise EnvironmentLacks(
                f"Mininet could not build the network: {' '.join(said.split())}; `testbed doctor` tells what this "
                "machine lacks"
            ) from error


@contextmanager
def heard() -> Iterator[list[str]]:
    """The errors that Mininet logs in the block: often the only place where it says what was wrong."""
    from mininet.log import lg

    errors: list[str] = []

    class Ears(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            errors.append(record.getMessage())

    ears, mouths = Ears(logging.ERROR), list(lg.handlers)
    lg.handlers[:] = [ears]
    try:
        yield errors
    finally:
        lg.handlers[:] = mouths


def try_mnexec() -> None:
    """Raise EnvironmentLacks unless mnexec starts programs: Mininet would wait for its shell for ever."""
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
    """Raise EnvironmentLacks unless this bridge has all these ports: Mininet does not look at what brctl answers."""
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
    """A small limit of open files for programs started in the block: mnexec closes every number below it, one by one.

    In User-Mode Linux, whose limit is 65536 here, that takes a second for each host.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, OPEN_FILES), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
