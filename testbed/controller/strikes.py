"""The devices that a trace kills or starts anew on the token clock: at their token and not at the next decision."""

from __future__ import annotations

import math
from collections.abc import Iterable

from testbed.traces.model import TraceSet
from testbed.traces.quantities import KILL, STRIKES


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

    def resume(self, tokens_done: int, killed: Iterable[str]) -> None:
        """Forget what came before so many tokens. A kill that nobody had noticed comes again."""
        self.take(tokens_done - 1)
        self._due = [(tokens_done, device, KILL) for device in sorted(killed)] + self._due

    def take(self, tokens_done: int) -> list[tuple[str, str]]:
        """(device, quantity) of those whose time has come; each is given once."""
        due = [(device, quantity) for token, device, quantity in self._due if token <= tokens_done]
        self._due = self._due[len(due) :]
        return due
