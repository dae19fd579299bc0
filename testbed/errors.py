"""What can go wrong, one class per kind of remedy.

Each class carries the exit code a command ends with; `testbed.cli` maps exceptions to codes there and
nowhere else. A message is one complete sentence: what, where, the value, and what would be right.
"""

from __future__ import annotations


class TestbedError(Exception):
    """Base of everything this package raises on purpose."""

    __test__ = False  # the name looks like a test class to pytest
    exit_code = 5


class ConfigError(TestbedError):
    """The user's files or options are wrong; nothing has been started."""

    exit_code = 2


class EnvironmentLacks(TestbedError):
    """This machine lacks something the run needs; `testbed doctor` says what."""

    exit_code = 3


class FidelityError(TestbedError):
    """The run finished, but the emulation was not faithful."""

    exit_code = 4


class RunFailed(TestbedError):
    """The run was started and failed: a policy misbehaved, a device died, verification differed."""

    exit_code = 5


class OutOfMemory(RunFailed):
    """A device ran out of its memory budget under the requested placement."""
