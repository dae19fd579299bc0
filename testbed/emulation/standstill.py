"""Processes that stand still: stopped by a signal, which no exit code and no closed pipe tells of."""

from __future__ import annotations

import time
from collections.abc import Mapping

from testbed.emulation.processes import has_ended, is_stopped
from testbed.errors import RunFailed

STOPPED_PATIENCE_S = 10.0  # a debugger's look, or an operator's slip
ENDED_PATIENCE_S = 2.0  # whoever waits for it may be about to tell
_LOOK_S = 0.5


class Standstill:
    """Since when each of some processes has not been able to go on."""

    def __init__(self, stopped_patience_s: float = STOPPED_PATIENCE_S) -> None:
        self._patience_s = stopped_patience_s
        self._since: dict[tuple[str, str], float] = {}
        self._looked_s = 0.0

    def look(self, pids: Mapping[str, int]) -> None:
        """Raise RunFailed for one that has been stopped, or has ended without anyone telling, for too long.

        The keys name the processes in the sentence. Cheap enough to be called in every loop that waits.
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
                what, patience_s = f"has been stopped by a signal for {self._patience_s:.0f} s", self._patience_s
            else:
                continue
            found[name, what] = self._since.get((name, what), now)
            if now - found[name, what] >= patience_s:
                raise RunFailed(f"{name} {what}")
        self._since = found
