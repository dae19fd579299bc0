"""Notices processes that have stopped making progress. No exit code and no closed pipe tells of a stop by a signal."""

from __future__ import annotations

import time
from collections.abc import Mapping

from testbed.emulation.processes import has_ended, is_stopped
from testbed.errors import RunFailed

STOPPED_PATIENCE_S = 10.0  # enough for a debugger or an operator's mistake
ENDED_PATIENCE_S = 2.0  # who waits for the process may be about to report its end
_LOOK_S = 0.5


class Stalled(RunFailed):
    """A process makes no progress; `name` is the one that it was given for sentences."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(f"{name} {what}")
        self.name = name


class StallDetector:
    """Remembers since when each process has been stopped or has ended."""

    def __init__(self, stopped_s: float = STOPPED_PATIENCE_S) -> None:
        self._stopped_s = stopped_s
        self._since: dict[tuple[str, str], float] = {}
        self._looked_s = 0.0

    def check(self, pids: Mapping[str, int]) -> None:
        """Raise Stalled for a process that has been stopped, or has ended and nobody says so, for too long.

        The keys of `pids` name the processes in the sentence. It is cheap enough for every loop that waits.
        """
        now = time.monotonic()
        if now - self._looked_s < _LOOK_S:
            return
        self._looked_s = now
        found: dict[tuple[str, str], float] = {}
        for name, pid in pids.items():
            if has_ended(pid):
                what, patience_s = "has ended in the middle of the run", ENDED_PATIENCE_S
            elif is_stopped(pid):
                what, patience_s = f"has been stopped by a signal for {self._stopped_s:.0f} s", self._stopped_s
            else:
                continue
            found[name, what] = self._since.get((name, what), now)
            if now - found[name, what] >= patience_s:
                raise Stalled(name, what)
        self._since = found
