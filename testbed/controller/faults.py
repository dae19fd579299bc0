"""What happens to the devices of a run: a trace kills them, they are lost, and what the run does about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn

from testbed.controller.device_state import Fence
from testbed.controller.fleet import DeviceLost, Fleet
from testbed.controller.losses import DeviceGone, loss_error, survivable
from testbed.controller.recorder import Recorder
from testbed.controller.run_state import RunState
from testbed.experiment.schema import Experiment
from testbed.runlog.folder import RunLog


@dataclass
class Faults:
    """The faults of one run."""

    experiment: Experiment
    fleet: Fleet
    state: RunState
    recorder: Recorder
    log: RunLog
    _killed_s: dict[str, float] = field(default_factory=dict)  # device -> emulated time at which the trace killed it

    def kill(self, device: str) -> None:
        """End a device's worker, as a trace asks; its loss is noticed like any other."""
        if device not in self.state.lost:
            self._killed_s[device] = self.fleet.clock.now()
            self.fleet.kill(device)

    def lose(self, device: str, event: DeviceLost, need_bytes: int, budget_bytes: int) -> NoReturn:
        """Raise what the end of a device's worker means: DeviceGone where the run can go on, else what ends it."""
        step = self.state.tokens_done
        if event.oom_killed:
            self.log.event("oom_kill", self.fleet.clock.now(), step=step, device=device)
        told = loss_error(device, event, step, need_bytes, budget_bytes)
        survived = self.state.begun and survivable(self.experiment, device, event)
        self.recorder.fault(device, step, event, self._killed_s.get(device), survived)
        if not survived:
            raise told
        known = self.state.devices[device]
        for instruction in [*known.silent(), *known.expired()] if event.hung else known.ended():
            if isinstance(instruction, Fence):
                self.fleet.kill(device)
        raise DeviceGone(device, str(told))
