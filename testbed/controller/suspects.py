"""Notices devices that give no sign of life, or whose main thread stands still, although their workers have not ended.

Time counts only while somebody looks: what passes between two looks counts as `LOOK_S` at most. So a controller that
was held up itself suspects nobody for that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from testbed.controller.fleet import DeviceLost
from testbed.controller.run_state import RunState
from testbed.experiment.schema import Experiment
from testbed.transport.beats import Heartbeat

# Wall seconds.
LOOK_S = 0.25
SUSPECT_S = 0.7  # without a heartbeat
STUCK_S = 10.0  # of a main thread in one operation, besides STUCK_PASSES times what the present pass takes
STUCK_PASSES = 3.0
HUNG_S = 10.0  # the default of `suspect_after`: enough for a debugger or an operator's mistake


@dataclass
class _Watched:
    """What has been heard of a device, and for how long nothing new."""

    operations: int = -1
    silent_s: float = 0.0
    stuck_s: float = 0.0


@dataclass(frozen=True)
class Suspicion:
    """A device that has become suspected, or has been heard again."""

    device: str
    reason: str  # empty: it has been heard again


class Suspects:
    """The living devices of one run. `pass_s` is how long the present pass should take, in wall seconds."""

    def __init__(self, experiment: Experiment, state: RunState) -> None:
        self._limit_s = given_up_after_s(experiment)
        self._spares_paused = experiment.recovery.suspect_after is None
        self._state = state
        self._watched: dict[str, _Watched] = {}
        self._looked_s: float | None = None
        self.pass_s = 0.0

    def look(
        self, now_s: float, beats: Mapping[str, Heartbeat], paused: Collection[str]
    ) -> Iterator[Suspicion | tuple[str, DeviceLost]]:
        """Take in the heartbeats since the last look; yields what they, or their absence, mean.

        `paused` are devices that a trace has stopped. They are lost only where the experiment says after what time.
        """
        passed_s = 0.0 if self._looked_s is None else min(LOOK_S, now_s - self._looked_s)
        self._looked_s = now_s
        for name, known in self._state.devices.items():
            if not known.living:
                self._watched.pop(name, None)
                continue
            watched = self._watched.setdefault(name, _Watched())
            watched.silent_s += passed_s
            watched.stuck_s += passed_s
            beat = beats.get(name)
            if beat is not None:
                watched.silent_s = 0.0
                if beat.waiting or beat.operations != watched.operations:
                    watched.stuck_s = 0.0
                watched.operations = beat.operations
            stuck_from_s = STUCK_S + STUCK_PASSES * self.pass_s
            silent, stuck = watched.silent_s > SUSPECT_S, watched.stuck_s > stuck_from_s
            if known.state == "up" and (silent or stuck):
                known.silent()
                yield Suspicion(name, "it gives no sign of life" if silent else "its main thread stands still")
            elif known.state == "suspected" and not silent and not stuck:
                known.heard()
                yield Suspicion(name, "")
            if name in paused and self._spares_paused:  # once it goes on, it has nearly as long as any other
                watched.silent_s = min(watched.silent_s, SUSPECT_S + LOOK_S)
                watched.stuck_s = min(watched.stuck_s, stuck_from_s + LOOK_S)
                continue
            if watched.silent_s > self._limit_s:
                yield name, DeviceLost(False, None, hung=_told(name, "gave no sign of life", watched.silent_s))
            elif watched.stuck_s > stuck_from_s + self._limit_s:
                yield name, DeviceLost(False, None, hung=_told(name, "stood still in an operation", watched.stuck_s))


def given_up_after_s(experiment: Experiment) -> float:
    """Wall seconds without a sign of life after which a device is lost."""
    after_s = experiment.recovery.suspect_after
    return HUNG_S if after_s is None else max(SUSPECT_S, after_s * experiment.dilation)


def _told(device: str, what: str, seconds: float) -> str:
    return f"device {device}: its worker {what} for {seconds:.0f} s"
