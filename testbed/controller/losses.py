"""The loss of a device: whether a run can go on without it, and the sentence with which it ends if not."""

from __future__ import annotations

from testbed.controller.fleet import DeviceLost
from testbed.errors import OutOfMemory, RunFailed
from testbed.experiment.schema import Experiment
from testbed.units import format_bytes


class DeviceGone(RunFailed):
    """A device is lost and the run can go on without it. Where nobody recovers, its message is why the run failed."""

    def __init__(self, device: str, message: str) -> None:
        super().__init__(message)
        self.device = device


class NotSurvived(RunFailed):
    """A loss that the run was to go on from, and cannot, because there is no placement on the living."""


def survivable(experiment: Experiment, device: str, event: DeviceLost) -> bool:
    """Whether the experiment asks for a recovery, and one is possible.

    The source generates the tokens and has what is pinned. With shipped weights no other device has a lost block's.
    """
    wanted = experiment.recovery.on_oom if event.oom_killed else experiment.recovery.on_exit
    return wanted == "recompute" and device != experiment.topology.source and experiment.weights == "staged"


def loss_error(device: str, event: DeviceLost, tokens_done: int, need_bytes: int, budget_bytes: int) -> RunFailed:
    """The error of a run that ends because this device's worker has ended."""
    if event.hung:
        return RunFailed(event.hung)
    if not event.oom_killed:
        return RunFailed(f"device {device}: its worker ended with code {event.exit_code} at token {tokens_done}")
    return OutOfMemory(
        f"device {device} ran out of memory at token {tokens_done}: its blocks need {format_bytes(need_bytes)}, its "
        f"budget is {format_bytes(budget_bytes)} (killed by the kernel)"
    )
