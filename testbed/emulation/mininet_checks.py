"""What Mininet does not look at when it builds a network, and would hang or go on without.

Knows programs and interfaces by name, nothing of devices.
"""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from testbed.errors import EnvironmentLacks

MNEXEC_PATIENCE_S = 10.0
OPEN_FILES = 4096  # Mininet itself keeps some four for each host


def try_mnexec() -> None:
    """Raise EnvironmentLacks unless mnexec starts programs: Mininet would wait for its shell for ever."""
    trial = subprocess.run(["mnexec", "true"], capture_output=True, text=True, timeout=MNEXEC_PATIENCE_S, check=False)
    if trial.returncode:
        answer = trial.stderr.strip() or f"it ends with code {trial.returncode}"
        raise EnvironmentLacks(f"the program mnexec does not work ({answer}): install the package mininet again")


def check_bridge(name: str, ports: set[str]) -> None:
    """Raise EnvironmentLacks unless this bridge has all these ports: Mininet does not look at what brctl answers."""
    shown = subprocess.run(["ip", "-o", "link", "show", "master", name], capture_output=True, text=True, check=False)
    found = {line.split(":")[1].strip().partition("@")[0] for line in shown.stdout.splitlines()}
    missing = ", ".join(sorted(ports - found))
    if missing:
        answer = shown.stderr.strip() or "it was made without them"
        raise EnvironmentLacks(f"the bridge {name} lacks its ports {missing} ({answer})")


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
