"""Which simulated devices have died, and when those that hang are given up."""

from __future__ import annotations

import math

from testbed.controller.fleet import TargetState


class Lives:
    """The workers of a simulated fleet. A paused device is given up `suspect_after` seconds later; None: never."""

    def __init__(self, suspect_after: float | None) -> None:
        self._after_s = math.inf if suspect_after is None else suspect_after
        self.dead: set[str] = set()
        self._given_up_s: dict[str, float] = {}

    def note_pauses(self, target: TargetState, now_s: float) -> None:
        """Take in which devices are paused from now on."""
        for name, device in target.devices.items():
            if not device.paused or name in self.dead:
                self._given_up_s.pop(name, None)
            else:
                self._given_up_s.setdefault(name, now_s + self._after_s)

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
