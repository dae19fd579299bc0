"""What devices refused or were refused: kernel settings, and peers that do not belong to the run."""

from __future__ import annotations

from collections.abc import Iterable

from testbed.controller.fleet import FleetEvent
from testbed.transport.messages import Collected, Hello

REFUSED_MEANS = "figures may differ from another machine's: run where /proc/sys can be written"


class Refusals:
    """Hears of refusals from the workers, and tells them in the notes of a run."""

    def __init__(self, devices: Iterable[str]) -> None:
        self._refused: dict[str, tuple[str, ...]] = dict.fromkeys(devices, ())  # settings that could not be written
        self._strangers: dict[str, int] = {}  # connections that each device refused

    def hear(self, device: str, event: FleetEvent) -> None:
        """Take note of what a worker says, if it is about a refusal."""
        if isinstance(event, Hello):
            self._refused[device] = event.refused
        elif isinstance(event, Collected):
            self._strangers[device] = event.strangers

    def notes(self, dropped: int) -> list[str]:
        """One sentence for each kind; `dropped` counts control frames that no device sent."""
        devices: dict[str, list[str]] = {}
        for name, refused in self._refused.items():
            for why in refused:
                devices.setdefault(why, []).append(name)
        notes = [f"on {', '.join(names)} {why}; {REFUSED_MEANS}" for why, names in devices.items()]
        strangers = [f"{count} on {name}" for name, count in self._strangers.items() if count]
        if strangers:
            notes.append(f"connections to data ports by strangers to the run were refused: {', '.join(strangers)}")
        if dropped:
            notes.append(f"{dropped} frames on the controller's sockets were dropped, because no device sent them")
        return notes
