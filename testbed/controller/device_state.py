r"""What a run knows of one device, as a state machine: events in, instructions out, no I/O.

    up -> suspected -> lost -> returning -> up
     \_______________/^  ^________/

A suspected device may only be slow, and is up again as soon as it is heard. A lost one stays lost, whatever it still
says: it is fenced, which ends its worker, so that nothing of it can speak for an old epoch for long. A device returns
as a new worker that holds nothing, and the policy sees it again once all others can reach it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NoReturn

from testbed.errors import RunFailed

State = Literal["up", "suspected", "lost", "returning"]


@dataclass(frozen=True)
class Fence:
    """Have the fleet end the device's worker, whatever is left of it."""

    device: str


@dataclass(frozen=True)
class Recover:
    """Cut the interval short, and place what the device held on the living."""

    device: str


@dataclass(frozen=True)
class Introduce:
    """Have all living devices learn the address of the device's new worker."""

    device: str


@dataclass(frozen=True)
class Offer:
    """Show the device to the policy from the next decision on."""

    device: str


Instruction = Fence | Recover | Introduce | Offer


@dataclass
class DeviceState:
    """One device. An event that cannot happen in its state raises RunFailed, which tells all events so far."""

    device: str
    state: State = "up"
    _story: list[str] = field(default_factory=list)

    @property
    def living(self) -> bool:
        """Whether it may hold blocks and must be asked about them."""
        return self.state in ("up", "suspected")

    def silent(self) -> list[Instruction]:
        """It has not been heard, or has not gone on, for longer than it should take."""
        self._expect("silent", "up")
        self.state = "suspected"
        return []

    def heard(self) -> list[Instruction]:
        """It has been heard. Late words of a lost device change nothing."""
        self._expect("heard", "up", "suspected", "lost", "returning")
        if self.state == "suspected":
            self.state = "up"
        return []

    def expired(self) -> list[Instruction]:
        """It has been suspected for as long as a device may be."""
        self._expect("expired", "suspected")
        return self._lose()

    def ended(self) -> list[Instruction]:
        """Its worker has ended. Of a lost device this is what the fence was for."""
        self._expect("ended", "up", "suspected", "lost", "returning")
        return [] if self.state == "lost" else self._lose()

    def started(self) -> list[Instruction]:
        """A new worker stands in its place."""
        self._expect("started", "lost")
        self.state = "returning"
        return [Introduce(self.device)]

    def introduced(self) -> list[Instruction]:
        """All living devices know its new address."""
        self._expect("introduced", "returning")
        self.state = "up"
        return [Offer(self.device)]

    def _lose(self) -> list[Instruction]:
        held_blocks, self.state = self.living, "lost"
        fence = Fence(self.device)
        return [fence, Recover(self.device)] if held_blocks else [fence]

    def _expect(self, event: str, *allowed: State) -> None:
        self._story.append(f"{event} in {self.state}")
        if self.state not in allowed:
            self._refuse(event)

    def _refuse(self, event: str) -> NoReturn:
        story = "; ".join(self._story)
        raise RunFailed(f"device {self.device}: {event!r} cannot happen while it is {self.state}; so far: {story}")
