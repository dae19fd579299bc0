"""What ends a wait that is too long, in a sentence that says what the traces hold up at that time."""

from __future__ import annotations

from typing import Any

import pytest

from testbed.clock import EmulatedClock
from testbed.controller.conditions import Conditions
from testbed.controller.device_state import DeviceState
from testbed.controller.event_loop import EventLoop
from testbed.controller.fleet import DeviceLost
from testbed.controller.losses import DeviceGone
from testbed.controller.recorder import Recorder
from testbed.controller.run_state import RunState
from testbed.errors import RunFailed
from testbed.experiment.schema import Experiment
from testbed.runlog.folder import RunLog
from testbed.traces import Change, Trace, TraceSet
from testbed.transport.messages import OutOfBudget, Token

DEVICE = {"streaming": "2 GB/s", "compute": "8 GFLOP/s", "memory": "64 MiB", "storage": "90 MB/s"}
BASE: dict[str, Any] = {
    "model": {"preset": "tiny"}, "prompt": "hi", "tokens": 8,
    "topology": {"source": "a", "devices": {name: DEVICE | {"link": {"rate": "20 Mbit/s"}} for name in "abc"}},
}  # fmt: skip


class Silent:
    """A fleet whose workers say nothing, or only `said`."""

    clock = EmulatedClock()
    replayed: frozenset[Any] = frozenset()
    beating = False
    sample_interval_s = 100.0

    def __init__(self, *said: tuple[str, Any]) -> None:
        self.said = list(said)

    def events(self, timeout_s: float) -> list[Any]:
        """What is said, once."""
        found, self.said = self.said, []
        return found

    def replay_reports(self) -> list[Any]:
        """Nothing."""
        return []

    def burst_bits(self, rate_bps: float) -> float:
        """Nothing."""
        return 0.0


def sentence(tmp_path: Any, *changes: Change) -> str:
    """What a wait of no time for a token of a's ends with."""
    traces = TraceSet((Trace(changes, "hold", None),)) if changes else TraceSet()
    experiment = Experiment.from_dict(BASE).model_copy(update={"traces": traces})
    conditions = Conditions(experiment)
    conditions.begin()
    log = RunLog.create(tmp_path, "silent", "static")
    recorder, fleet = Recorder(log, Silent.clock, 1), Silent()
    loop = EventLoop(experiment, 2, fleet, conditions, RunState(), recorder, log, 1e-4)  # type: ignore[arg-type]
    with pytest.raises(RunFailed) as failed:
        loop.answer(Token, "a", 0.0)
    return str(failed.value)


def test_a_loss_is_heard_that_comes_together_with_one_that_ends_the_migration(tmp_path: Any) -> None:
    experiment = Experiment.from_dict(BASE | {"recovery": {"on_oom": "recompute"}})
    conditions = Conditions(experiment)
    conditions.begin()
    state = RunState({name: DeviceState(name) for name in "abc"}, begun=True)
    log = RunLog.create(tmp_path, "losses", "static")
    fleet: Any = Silent(("b", OutOfBudget(4, 9, 8)), ("c", DeviceLost(False, -9)))
    fleet.kill = lambda device: None
    recorder = Recorder(log, fleet.clock, 1)
    loop = EventLoop(experiment, 2, fleet, conditions, state, recorder, log, 1e-4)
    with pytest.raises(DeviceGone, match="device b"):
        loop.migration_events(0.0)
    with pytest.raises(DeviceGone, match="device c"):
        loop.hear(())
    assert state.lost == {"b", "c"}


def test_a_device_that_says_nothing_is_named_with_the_token(tmp_path: Any) -> None:
    assert sentence(tmp_path) == "device a sent no Token for 0 s at token 0"


def test_links_that_are_down_and_devices_that_are_paused_are_named_as_what_holds_it_up(tmp_path: Any) -> None:
    paused = sentence(tmp_path, Change(0, "device/b", "pause", 1.0))
    assert paused.endswith("at token 0; device b is paused")
    pauses = [Change(0, f"device/{name}", "pause", 1.0) for name in "bc"]
    more = sentence(tmp_path, Change(0, "link/c", "up", 0.0), *pauses)
    assert more.endswith("; the link of c is at 0 bit/s; devices b, c are paused")
