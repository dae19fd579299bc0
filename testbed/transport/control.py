"""The control plane's two ends: the controller's hub, and each worker's line to it.

Commands go from a ROUTER to DEALERs, so that a command for a worker that is gone is an error and never dropped
silently. Events go from PUSH to PULL. Sockets are `ipc://` paths, which cross network namespaces; abstract ones do
not.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path

import msgspec
import zmq

from testbed.errors import RunFailed
from testbed.transport.addresses import ipc_address
from testbed.transport.messages import Command, Event, decode_command, decode_event, encode

LINGER_MS = 500
GREETING = b""
GREETING_PATIENCE_S = 1.0  # short: a worker greets before it sends its first event


class ControlHub:
    """The controller's end. `dropped` counts messages that none of `devices` can have sent.

    Only the run's own user can enter `folder`. A message that he sends by mistake must not end the run.
    """

    def __init__(self, folder: Path, devices: Collection[str]) -> None:
        commands, events = ipc_address(folder, "commands"), ipc_address(folder, "events")
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._commands = self._context.socket(zmq.ROUTER)
        self._commands.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._commands.setsockopt(zmq.ROUTER_HANDOVER, 1)  # to a device's new worker
        self._commands.setsockopt(zmq.LINGER, LINGER_MS)
        self._commands.setsockopt(zmq.RCVHWM, 0)  # behind a limit, frames of a sender that ends are lost uncounted
        self._commands.bind(commands)
        self._events = self._context.socket(zmq.PULL)
        self._events.set_hwm(0)
        self._events.bind(events)
        self._devices = {device.encode(): device for device in devices}
        self._greeted: set[str] = set()
        self.dropped = 0

    def fileno(self) -> int:
        """A descriptor that becomes readable when events may be waiting."""
        return int(self._events.getsockopt(zmq.FD))

    def send(self, device: str, command: Command) -> None:
        """Send a command; raises RunFailed when that worker has no connection."""
        try:
            self._commands.send_multipart([device.encode(), encode(command)])
        except zmq.ZMQError as error:
            raise RunFailed(f"device {device} cannot be reached: {error}") from error

    def expect(self, device: str) -> None:
        """Expect a new worker in this device's place."""
        self._greeted.discard(device)

    def poll(self, timeout_s: float) -> list[tuple[str, Event]]:
        """All events that are waiting, or else the first ones to come within the timeout."""
        found: list[tuple[str, Event]] = []
        if self._events.poll(max(0, round(timeout_s * 1000))):
            while True:
                try:
                    device, body = self._events.recv_multipart(zmq.NOBLOCK)
                    found.append((self._devices[device], decode_event(body)))
                except zmq.Again:
                    break
                except (ValueError, KeyError, msgspec.MsgspecError):
                    self.dropped += 1
        # The two sockets keep no common order: a worker's Hello may arrive before its greeting, and the ROUTER knows
        # the worker only after that.
        self._hear_greetings({device for device, _ in found})
        return found

    def _hear_greetings(self, awaited: set[str]) -> None:
        """Take the greetings that are there, and wait for those of workers that have already sent an event."""
        deadline = time.monotonic() + GREETING_PATIENCE_S
        while True:
            left = max(0.0, deadline - time.monotonic()) if awaited - self._greeted else 0.0
            if not self._commands.poll(round(left * 1000)):
                return
            who, *said = self._commands.recv_multipart()
            if who in self._devices and said == [GREETING]:
                self._greeted.add(self._devices[who])
            else:
                self.dropped += 1

    def close(self) -> None:
        """Close the sockets."""
        self._context.destroy(linger=LINGER_MS)


class ControlLine:
    """A worker's end. `receive` belongs to a thread of its own, `send` to the main one."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], folder: Path, device: str) -> None:
        self._name = device.encode()
        self.inbound = context.socket(zmq.DEALER)
        self.inbound.setsockopt(zmq.IDENTITY, self._name)
        self.inbound.setsockopt(zmq.LINGER, LINGER_MS)
        self.inbound.connect(ipc_address(folder, "commands"))
        self.inbound.send(GREETING)  # so that the ROUTER knows this name
        # A context of its own, so that closing can wait until a worker's last message has left.
        self._own: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._events = self._own.socket(zmq.PUSH)
        self._events.set_hwm(0)
        self._events.setsockopt(zmq.LINGER, LINGER_MS)
        self._events.connect(ipc_address(folder, "events"))

    def receive(self) -> Command:
        """The next command that is waiting."""
        return decode_command(self.inbound.recv())

    def send(self, event: Event) -> None:
        """Queue one event."""
        self._events.send_multipart([self._name, encode(event)])

    def finish(self) -> None:
        """Wait up to half a second until all queued events have left. No more can be sent."""
        self._events.close()
        self._own.term()

    def close(self) -> None:
        """Finish, and close both sockets; no thread may be receiving."""
        self.finish()
        self.inbound.close()
