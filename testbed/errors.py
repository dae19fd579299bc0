"""The exceptions of this package: one class for each kind of remedy.

A class has the exit code with which a command ends; `testbed.cli.refusals` is the one place where an exception becomes
an exit code. A message is one complete sentence that says what is wrong and where, names the value, and says what would
be right.
"""

from __future__ import annotations

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ended: 128 + SIGINT, as shells report it."""


class TestbedError(Exception):
    """The base class of all exceptions that this package raises on purpose."""

    __test__ = False  # the name looks like a test class to pytest
    exit_code = 5


class ConfigError(TestbedError):
    """A file or an option of the user is wrong, and nothing has been started."""

    exit_code = 2


class EnvironmentLacks(TestbedError):
    """This machine lacks something that the run needs; `testbed doctor` says what."""

    exit_code = 3


class FidelityError(TestbedError):
    """The run finished, but the emulation was not faithful."""

    exit_code = 4


class RunFailed(TestbedError):
    """The run was started and failed: a policy misbehaved, a device died, or verification found a difference."""

    exit_code = 5


class OutOfMemory(RunFailed):
    """A device ran out of its memory budget under the requested placement."""
