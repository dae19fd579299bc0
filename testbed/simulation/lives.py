"""Which simulated devices have died, and when those that hang are given up."""

from __future__ import annotations

import math

from testbed.controller.fleet import DeviceLost, FleetEvent, TargetState
from testbed.transport.messages import Hello

Told = list[tuple[str, FleetEvent]]


class Lives:
    """The workers of a simulated fleet. A paused device is given up `suspect_after` seconds later; None: never.

    It says nothing as long as it is paused. A worker that is started meanwhile stops once it has said that it is up.
    """

    def __init__(self, suspect_after: float | None) -> None:
        self._after_s = math.inf if suspect_after is None else suspect_after
        self.dead: set[str] = set()
        self._paused: set[str] = set()
        self._given_up_s: dict[str, float] = {}

    def note_pauses(self, target: TargetState, now_s: float) -> None:
        """Take in which devices are paused from now on."""
        before, self._paused = self._paused, {name for name, device in target.devices.items() if device.paused}
        for name in before - self._paused:
            self._given_up_s.pop(name, None)
        for name in self._paused - before - self.dead:
            self._given_up_s[name] = now_s + self._after_s

    def end(self, device: str) -> None:
        """Note that a worker has ended."""
        self.dead.add(device)
        self._given_up_s.pop(device, None)

    def divided(self, told: Told) -> tuple[Told, Told]:
        """What can be heard now, and what only when those who say it go on."""
        if not self._paused:
            return told, []
        heard = [one for one in told if one[0] not in self._paused or isinstance(one[1], DeviceLost | Hello)]
        return heard, [one for one in told if one not in heard]

    @property
    def next_s(self) -> float:
        """When the next device is given up."""
        return min(self._given_up_s.values(), default=math.inf)

    def give_up(self) -> tuple[str, str]:
        """Give that device up; returns its name and the sentence."""
        name = min(self._given_up_s, key=self._given_up_s.__getitem__)
        del self._given_up_s[name]
        return name, f"device {name}: its worker gave no sign of life for {self._after_s:.0f} s"

    def halts(self, name: str, target: TargetState) -> bool:
        """Whether what needs the device stands still."""
        return name in self.dead or target.devices[name].paused
