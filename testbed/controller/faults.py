"""What happens to the devices of a run: a trace kills them and starts them anew, they are lost, and they return."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from testbed.controller.device_state import Fence, Introduce, Offer, Recover
from testbed.controller.fleet import DeviceLost, Fleet, FleetEvent, TargetState
from testbed.controller.losses import DeviceGone, loss_error, survivable
from testbed.controller.recorder import Recorder
from testbed.controller.run_state import RunState
from testbed.controller.suspects import Suspects, Suspicion
from testbed.errors import EnvironmentLacks, RunFailed
from testbed.experiment.schema import Experiment
from testbed.runlog.folder import RunLog
from testbed.runlog.journal import Struck
from testbed.traces.quantities import KILL
from testbed.transport.messages import Connected, Hello, Load, Loaded, OutOfBudget

RETURN_PATIENCE_S = 45.0  # wall seconds for a new worker to be up and known to all


@dataclass
class Return:
    """A new worker in the place of a lost device."""

    until_s: float  # wall; when it is given up
    awaited: set[str] | None = None  # who has yet to know it, and itself to be ready; None: it is not up
    killed: bool = False  # by a trace, and its end has not been noticed yet

    @property
    def ready(self) -> bool:
        """Whether the policy may be shown the device."""
        return self.awaited == set() and not self.killed


@dataclass
class Faults:
    """The faults of one run."""

    experiment: Experiment
    fleet: Fleet
    state: RunState
    recorder: Recorder
    log: RunLog
    suspects: Suspects = field(init=False)
    _late: Counter[str] = field(default_factory=Counter)  # not written down yet
    _heard_late: dict[tuple[str, str], int] = field(default_factory=dict)  # (receiver, lost device) -> messages so far
    _lost_once: set[str] = field(default_factory=set)
    _killed_s: dict[str, float] = field(default_factory=dict)  # by a trace and not lost yet: at which emulated time
    _to_return: list[str] = field(default_factory=list)
    _returns: dict[str, Return] = field(default_factory=dict)
    _told: dict[str, deque[str]] = field(default_factory=dict)  # device -> those whose addresses it has been told

    def __post_init__(self) -> None:
        self.suspects = Suspects(self.experiment, self.state)

    def strike(self, device: str, quantity: str) -> None:
        """End a device's worker, or start it anew, as a trace asks. A loss is noticed like any other."""
        living, returning = self.state.devices[device].living, self._returns.get(device)
        if quantity == KILL:
            if device in self._to_return:  # it dies before it stands
                self._to_return.remove(device)
            elif living or returning is not None:
                if returning is not None:
                    returning.killed = True
                else:
                    self._killed_s[device] = self.fleet.clock.now()
                self.fleet.kill(device)
        elif device in self._to_return or (returning is not None and not returning.killed):
            self._note("restart_ignored", device, "it starts already")
        elif living and device not in self._killed_s:
            self._note("restart_ignored", device, "it lives")
        else:
            self._to_return.append(device)
        self._journal()

    def _journal(self) -> None:
        """Write down for a controller that goes on what cannot be seen of the devices yet."""
        starting = [name for name, each in self._returns.items() if not each.killed]
        self.log.journal(Struck(sorted(self._killed_s), sorted({*self._to_return, *starting})))

    @property
    def dying(self) -> bool:
        """Whether a device that a trace has killed is not lost yet."""
        return any(self.state.devices[device].living for device in self._killed_s)

    # --- losses ------------------------------------------------------------------------------------------

    def lose(self, device: str, event: DeviceLost, need_bytes: int, budget_bytes: int) -> None:
        """Take in the end of a device's worker. Raises DeviceGone where the run can go on, else what ends it."""
        known, returning = self.state.devices[device], self._returns.pop(device, None)
        if known.state == "lost" and returning is None:
            return
        for each in self._returns.values():
            if each.awaited is not None:
                each.awaited.discard(device)
        self._told.pop(device, None)
        told = loss_error(device, event, self.state.tokens_done, need_bytes, budget_bytes)
        if known.living:
            self._note_loss(device, event, told)
            self._lost_once.add(device)
            if event.hung and known.state == "up":
                known.silent()
            instructions = known.expired() if event.hung else known.ended()
        else:
            instructions = known.ended()
            why = event.hung or f"its worker ended with code {event.exit_code} while starting"
            self._note("device_lost_again", device, why)
            self._journal()
        for instruction in instructions:
            match instruction:
                case Fence():
                    self.fleet.kill(device)
                case Recover():
                    raise DeviceGone(device, str(told))

    def _note_loss(self, device: str, event: DeviceLost, told: RunFailed) -> None:
        """Write down the loss of a living device; raises what ends the run where it cannot go on."""
        step = self.state.tokens_done
        if event.oom_killed and event.exit_code is not None:
            self.log.event("oom_kill", self.fleet.clock.now(), step=step, device=device)
        survived = self.state.begun and survivable(self.experiment, device, event)
        self.recorder.fault(device, step, event, self._killed_s.pop(device, None), survived)
        if not survived:
            raise told if self.state.begun or event.oom_killed else EnvironmentLacks(f"{told}, before it was ready")

    def give_up_where_survivable(self, device: str, event: OutOfBudget) -> None:
        """End a worker that holds more than its budget, where the run can go on without it; raises DeviceGone then."""
        loss = DeviceLost(True, None)
        if self.state.begun and survivable(self.experiment, device, loss):
            self.lose(device, loss, event.need_bytes, event.budget_bytes)

    # --- suspicion ---------------------------------------------------------------------------------------

    def suspect(self, target: TargetState) -> list[tuple[str, FleetEvent]]:
        """Look for devices that hang, once tokens are generated; returns the losses."""
        if not self.fleet.beating:
            return []
        beats = self.fleet.beats()
        if not self.state.begun:
            return []
        losses: list[tuple[str, FleetEvent]] = []
        paused = [name for name, device in target.devices.items() if device.paused]
        for news in self.suspects.look(self.fleet.clock.wall(), beats, paused):
            if not isinstance(news, Suspicion):
                losses.append(news)
            elif news.reason:
                self._note("device_suspected", news.device, news.reason)
            else:
                self._note("device_heard", news.device)
        return losses

    # --- late words --------------------------------------------------------------------------------------

    def heard_late(self, receiver: str, late: Mapping[str, int]) -> None:
        """Count the messages of interrupted epochs that a device has received from lost ones, and dropped."""
        for sender in self._lost_once & late.keys():
            before = self._heard_late.get((receiver, sender), 0)
            self._late[sender] += max(0, late[sender] - before)
            self._heard_late[receiver, sender] = late[sender]

    def record_late(self) -> None:
        """Write down what lost devices still said since the last time."""
        for device, messages in (+self._late).items():
            self.recorder.late(device, self.state.tokens_done, messages)
        self._late.clear()

    # --- returns -----------------------------------------------------------------------------------------

    @property
    def returning(self) -> bool:
        """Whether a device is on its way back."""
        return bool(self._to_return) or not all(each.ready for each in self._returns.values())

    def proceed(self) -> None:
        """Start the workers that are due, and give up those that take too long."""
        now_s = self.fleet.clock.wall()
        ended = {name for name, known in self.state.devices.items() if known.state == "lost"} - set(self._returns)
        for device in [name for name in self._to_return if name in ended]:
            self._to_return.remove(device)
            self._returns[device] = Return(now_s + RETURN_PATIENCE_S)
            self.fleet.restart(device)
            self._note("device_restarted", device)
        for device in [name for name, each in self._returns.items() if each.until_s < now_s and not each.ready]:
            self.fleet.kill(device)
            late = f"its new worker was not known to all within {RETURN_PATIENCE_S:.0f} s"
            self.lose(device, DeviceLost(False, None, hung=late), 0, 0)

    def takes(self, device: str, event: FleetEvent) -> bool:
        """Whether an event is about a return, or comes late from a lost device. It is handled here then."""
        returning = self._returns.get(device)
        match event:
            case DeviceLost() if self.state.devices[device].living:
                return False
            case DeviceLost():  # what a fence ended, which must not end a migration on the living
                self.lose(device, event, 0, 0)
            case Hello() if returning is None or returning.killed:
                pass  # its end is reported next
            case Hello() if returning is not None:
                for instruction in self.state.devices[device].started():
                    if isinstance(instruction, Introduce):
                        told = self.fleet.introduce(device)
                        with suppress(RunFailed):  # it has ended again, as is reported next
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
                self._late[device] += 1
            case _:
                return False
        return True

    def offer(self) -> list[str]:
        """Show the policy, from now on, the devices that have returned; returns them."""
        ready = [name for name, each in self._returns.items() if each.ready]
        for device in ready:
            del self._returns[device]
            # Its new worker counts anew what it drops.
            self._heard_late = {pair: count for pair, count in self._heard_late.items() if pair[0] != device}
            for instruction in self.state.devices[device].introduced():
                if isinstance(instruction, Offer):
                    self._note("device_returned", device)
        return ready

    def _note(self, kind: str, device: str, reason: str | None = None) -> None:
        told = {} if reason is None else {"reason": reason}
        self.log.event(kind, self.fleet.clock.now(), step=self.state.tokens_done, device=device, **told)
