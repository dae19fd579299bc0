"""The devices that a trace kills or starts anew on the token clock: at their token and not at the next decision."""

from __future__ import annotations

import math
from collections.abc import Collection

from testbed.traces.model import TraceSet
from testbed.traces.quantities import KILL, RESTART, STRIKES


class Strikes:
    """What a trace set kills and starts anew within a run of so many tokens, in order."""

    def __init__(self, traces: TraceSet, tokens: int) -> None:
        changes = traces.changes_between(-1.0, float(tokens))
        self._due = [
            (math.ceil(change.time_s), change.target.removeprefix("device/"), change.quantity)
            for change in changes
            if change.quantity in STRIKES and change.value
        ]

    def before(self, until: int) -> int:
        """The number of tokens after which the next strike comes, or `until` if that is sooner."""
        return min(self._due[0][0], until) if self._due else until

    def resume(self, tokens_done: int, lost: Collection[str]) -> list[str]:
        """Forget what came before so many tokens; returns the lost devices that have been started anew since.

        A kill that nobody had noticed when the controller died comes again.
        """
        last = dict(self.take(tokens_done - 1))
        unnoticed = [device for device, quantity in last.items() if quantity == KILL and device not in lost]
        self._due = [(tokens_done, device, KILL) for device in unnoticed] + self._due
        return [device for device, quantity in last.items() if quantity == RESTART and device in lost]

    def take(self, tokens_done: int) -> list[tuple[str, str]]:
        """(device, quantity) of those whose time has come; each is given once."""
        due = [(device, quantity) for token, device, quantity in self._due if token <= tokens_done]
        self._due = self._due[len(due) :]
        return due
