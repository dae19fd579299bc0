"""How many files the controller may have open."""

from __future__ import annotations

import resource

from testbed.errors import EnvironmentLacks

FILES, FILES_PER_DEVICE = 32, 8  # that a controller has open; with four devices 64 are enough


def allow_open_files(devices: int) -> None:
    """Raise this process's soft limit of open files if a run of so many devices needs it.

    Raises EnvironmentLacks where the hard limit is lower.
    """
    needed = FILES + FILES_PER_DEVICE * devices
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY != hard < needed:
        raise EnvironmentLacks(
            f"a run of so many devices needs {needed} open files and may have {hard}: raise `ulimit -n`"
        )
    if resource.RLIM_INFINITY != soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
