"""Going on with a run whose controller has died: what `testbed resume` does.

All that is needed lies in the run's folder. What the dead run has left elsewhere on this host is removed before.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testbed.errors import ConfigError
from testbed.runlog.folder import RunLog, read_manifest, read_summary
from testbed.runlog.journal import read_past
from testbed.running.backends import choose_backend, find_backend
from testbed.running.carry_out import failure, run_apart
from testbed.running.going_on import is_up
from testbed.running.ownership import given_to_sudo_user
from testbed.running.remarks import Tell, tell_log
from testbed.running.run_names import find_run
from testbed.version import __version__

if TYPE_CHECKING:
    from testbed.analysis import Run


def resume(run: str | Path, *, accept_unfaithful: bool = False, progress: bool = False, tell: Tell = tell_log) -> Run:
    """Continue a run that did not reach its end, and return it, loaded from its folder.

    The tokens and their logits are those of an undisturbed run. The rest of the run is carried out with the same
    backend and options.

    Args:
        run: The run's folder, or its name in the folder `runs`.
        accept_unfaithful: Return the run even if the emulation was not faithful.
        progress: Draw a bar on standard error, if that is a terminal.
        tell: Is called with each remark, a sentence; by default they go to the log `testbed`.

    Raises:
        ConfigError: There is no such run, or it cannot go on: it has ended, goes on, or its model has changed.
        EnvironmentLacks: This machine lacks what the backend needs.
        FidelityError: The run finished, but the emulation was not faithful.
        RunFailed: The run failed.

    Example:
        >>> import testbed
        >>> run = testbed.resume("runs/20260101T000000Z-quickstart-headroom")
        >>> run.summary["resumed"]
        1
    """
    summary = resume_once(run, tell, progress=progress)
    failed = failure(summary, accept_unfaithful)
    if failed is not None:
        raise failed
    from testbed.analysis import load

    return load(summary["path"])


def resume_once(
    run: str | Path, tell: Tell = tell_log, *, progress: bool = False, stream: bool = False
) -> dict[str, Any]:
    """Go on with a run and return its summary, whatever its status. This is `resume` without loading the run."""
    folder = find_run(run)
    with _alone(folder), given_to_sudo_user():
        manifest = _resumable(folder)
        choose_backend(manifest["backend"], tell)
        manifest["options"] |= {
            "resumed": read_past(folder).resumed + 1, "progress": progress and sys.stderr.isatty(),
            "stream": stream and sys.stdout.isatty(),
        }  # fmt: skip
        return run_apart(manifest, lambda: RunLog(folder), tell)


def _resumable(folder: Path) -> dict[str, Any]:
    """The manifest of a run that can go on; raises ConfigError for any other."""
    manifest, summary = read_manifest(folder), read_summary(folder)
    if summary is not None:
        raise ConfigError(f"{folder} has ended ({summary.get('status')}): only a run without a summary can be resumed")
    if is_up(folder):
        raise ConfigError(f"{folder} is going on: only a run that has died can be resumed")
    if "experiment" not in manifest or "options" not in manifest:
        raise ConfigError(f"{folder} died before its experiment was written down: replay the experiment instead")
    if not find_backend(manifest["backend"]).emulated:
        raise ConfigError(f"{folder} is a simulation, which is quickly repeated: replay the experiment instead")
    if manifest.get("testbed") != __version__:
        raise ConfigError(
            f"{folder} was begun by version {manifest.get('testbed')} of the testbed, and this is {__version__}: "
            "resume it with the version that began it"
        )
    return manifest


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Refuse what somebody else is resuming."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{folder} is going on: somebody else is resuming it") from error
        yield
    finally:
        os.close(descriptor)
