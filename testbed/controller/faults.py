"""What happens to the devices of a run: a trace kills them and starts them anew, they are lost, and they return."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import NoReturn

from testbed.controller.device_state import Fence, Introduce, Offer
from testbed.controller.fleet import DeviceLost, Fleet, FleetEvent
from testbed.controller.losses import DeviceGone, loss_error, survivable
from testbed.controller.recorder import Recorder
from testbed.controller.run_state import RunState
from testbed.experiment.schema import Experiment
from testbed.runlog.folder import RunLog
from testbed.traces.quantities import KILL
from testbed.transport.messages import Connected, Hello, Load, Loaded

RETURN_PATIENCE_S = 45.0  # wall seconds for a new worker to be up and known to all


@dataclass
class Return:
    """A new worker in the place of a lost device."""

    until_s: float  # wall; when it is given up
    awaited: set[str] | None = None  # who has yet to know it, and itself to be ready; None: it is not up


@dataclass
class Faults:
    """The faults of one run. `late` counts what lost devices still said, by device."""

    experiment: Experiment
    fleet: Fleet
    state: RunState
    recorder: Recorder
    log: RunLog
    late: Counter[str] = field(default_factory=Counter)
    _killed_s: dict[str, float] = field(default_factory=dict)  # by a trace and not lost yet: at which emulated time
    _to_return: list[str] = field(default_factory=list)
    _returns: dict[str, Return] = field(default_factory=dict)
    _told: dict[str, deque[str]] = field(default_factory=dict)  # device -> those whose addresses it has been told

    def strike(self, device: str, quantity: str) -> None:
        """End a device's worker, or start it anew, as a trace asks. A loss is noticed like any other."""
        living = self.state.devices[device].living
        if quantity == KILL:
            if living:
                self._killed_s[device] = self.fleet.clock.now()
                self.fleet.kill(device)
        elif not living or device in self._killed_s:
            self._to_return.append(device)
        else:
            self._note("restart_ignored", device, "it lives")

    # --- losses ------------------------------------------------------------------------------------------

    def lose(self, device: str, event: DeviceLost, need_bytes: int, budget_bytes: int) -> None:
        """Take in the end of a device's worker. Raises DeviceGone where the run can go on, else what ends it."""
        known = self.state.devices[device]
        returning = self._returns.pop(device, None)
        if known.state == "lost" and returning is None:
            return
        for each in self._returns.values():
            (each.awaited or set()).discard(device)
        self._told.pop(device, None)
        if not known.living:
            known.ended()
            self._note("device_lost_again", device, f"its worker ended with code {event.exit_code} while starting")
            return
        self._lose_living(device, event, need_bytes, budget_bytes)

    def _lose_living(self, device: str, event: DeviceLost, need_bytes: int, budget_bytes: int) -> NoReturn:
        step = self.state.tokens_done
        if event.oom_killed:
            self.log.event("oom_kill", self.fleet.clock.now(), step=step, device=device)
        told = loss_error(device, event, step, need_bytes, budget_bytes)
        survived = self.state.begun and survivable(self.experiment, device, event)
        self.recorder.fault(device, step, event, self._killed_s.pop(device, None), survived)
        if not survived:
            raise told
        known = self.state.devices[device]
        for instruction in [*known.silent(), *known.expired()] if event.hung else known.ended():
            if isinstance(instruction, Fence):
                self.fleet.kill(device)
        raise DeviceGone(device, str(told))

    # --- returns -----------------------------------------------------------------------------------------

    @property
    def returning(self) -> bool:
        """Whether a device is on its way back."""
        return bool(self._to_return) or any(each.awaited != set() for each in self._returns.values())

    def proceed(self) -> None:
        """Start the workers that are due, and give up those that take too long."""
        now_s = self.fleet.clock.wall()
        for device in [name for name in self._to_return if self.state.devices[name].state == "lost"]:
            self._to_return.remove(device)
            self._returns[device] = Return(now_s + RETURN_PATIENCE_S)
            self.fleet.restart(device)
            self._note("device_restarted", device)
        for device in [name for name, each in self._returns.items() if each.until_s < now_s and each.awaited != set()]:
            self.fleet.kill(device)
            self.lose(device, DeviceLost(False, None), 0, 0)

    def takes(self, device: str, event: FleetEvent) -> bool:
        """Whether an event is about a return, or comes late from a lost device. It is handled here then."""
        returning = self._returns.get(device)
        match event:
            case DeviceLost():
                return False
            case Hello() if returning is not None:
                for instruction in self.state.devices[device].started():
                    if isinstance(instruction, Introduce):
                        told = self.fleet.introduce(device)
                        self.fleet.send(device, Load([], pinned=False))
                        returning.awaited = {*told, ""}  # the empty name stands for the answer to Load
                        for name in told:
                            self._told.setdefault(name, deque()).append(device)
            case Loaded() if returning is not None and returning.awaited:
                returning.awaited.discard("")
            case Connected():
                known = self._told.get(device)
                if known:
                    met = self._returns.get(known.popleft())
                    if met is not None and met.awaited:
                        met.awaited.discard(device)
            case _ if not self.state.devices[device].living:
                self.late[device] += 1
            case _:
                return False
        return True

    def offer(self) -> None:
        """Show the policy, from now on, the devices that have returned."""
        for device in [name for name, each in self._returns.items() if each.awaited == set()]:
            del self._returns[device]
            for instruction in self.state.devices[device].introduced():
                if isinstance(instruction, Offer):
                    self._note("device_returned", device)

    def _note(self, kind: str, device: str, reason: str | None = None) -> None:
        told = {} if reason is None else {"reason": reason}
        self.log.event(kind, self.fleet.clock.now(), step=self.state.tokens_done, device=device, **told)
