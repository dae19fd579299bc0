"""The devices that a trace kills on the token clock: each dies at its token and not at the next decision."""

from __future__ import annotations

import math

from testbed.traces.model import TraceSet

KILL = "kill"  # the quantity of a device in traces


class Strikes:
    """What a trace set kills within a run of so many tokens, in order."""

    def __init__(self, traces: TraceSet, tokens: int) -> None:
        changes = traces.changes_between(-1.0, float(tokens))
        self._due = [
            (math.ceil(change.time_s), change.target.removeprefix("device/"))
            for change in changes
            if change.quantity == KILL and change.value
        ]

    def before(self, until: int) -> int:
        """The number of tokens after which the next device dies, or `until` if that is sooner."""
        return min(self._due[0][0], until) if self._due else until

    def take(self, tokens_done: int) -> list[str]:
        """The devices whose time has come; each is given once."""
        due = [device for token, device in self._due if token <= tokens_done]
        self._due = self._due[len(due) :]
        return due
