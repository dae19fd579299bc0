"""What the network and the devices are at a moment: the topology, overlaid by the traces.

Memory differs from the rest: a decrease is announced first and visible to the policy, and enforced at the commit of
the next decision or `grace` intervals later, whichever is first. An increase holds at once. With `ramp` a decrease
comes in steps, because a co-located process needs time to take so much. This module keeps that account and applies
nothing itself.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace

from testbed.controller.calibration import NOMINAL_HOP_S
from testbed.controller.fleet import DeviceTarget, LinkTarget, TargetState
from testbed.device_model import PLAIN
from testbed.experiment.schema import Experiment
from testbed.placement.observation import DeviceView, LinkView, Observation
from testbed.topologies.finer import with_software
from testbed.traces.model import SeriesKey, TraceSet
from testbed.traces.quantities import RATES, STRIKES
from testbed.traces.recording import Change

RAMP_STEP_S = 0.25  # on the traces' clock, between two steps of a decrease with `ramp`

# A trace's quantity -> the fields of a link that it sets.
_LINK_FIELDS: Mapping[str, tuple[str, ...]] = {
    "up": ("up_bps",), "down": ("down_bps",), "up_delay": ("up_delay_s",), "down_delay": ("down_delay_s",),
    "loss": ("up_loss", "down_loss"),
}  # fmt: skip


@dataclass(frozen=True)
class Announcement:
    """A memory decrease that has been announced and is not enforced yet."""

    device: str
    memory_bytes: int
    boundary: int  # the index of the decision that follows the announcement


@dataclass(frozen=True)
class _Fall:
    """A device's memory on its way down: how much it was when that began, and when the next step is due."""

    since_s: float
    memory_bytes: int
    due_s: float


class Conditions:
    """The target state at each moment of a run. Somebody else applies what is in `replayed`, at its time."""

    def __init__(self, experiment: Experiment, replayed: Container[SeriesKey] = ()) -> None:
        self._topology = experiment.topology
        self._traces = experiment.traces
        self._awaited = _without(experiment.traces, replayed)
        self._grace, self._ramp_Bps = experiment.grace, experiment.ramp
        self._falls: dict[str, _Fall] = {}
        self._values: dict[tuple[str, str], float] = {}
        self._memory = {device.name: device.memory_bytes for device in self._topology.devices}
        self._announced: dict[str, Announcement] = {}
        self.time = 0.0
        self.changes = 0  # how often anything has changed so far
        self._target: tuple[int, TargetState] | None = None  # (its number of changes, the target)

    def begin(self) -> None:
        """Take the traces' values at time 0. Memory holds at once."""
        self._values = dict(self._traces.at(0.0))
        for name in self._memory:
            self._memory[name] = self._wanted_memory(name)
        self.changes += 1

    def next_change_s(self) -> float | None:
        """The trace time of the next change that nobody else replays, or None."""
        following = self._awaited.next_change_after(self.time)
        due = [fall.due_s for fall in self._falls.values()]
        return min(due if following is None else [*due, following], default=None)

    def advance(self, until: float, boundary: int) -> tuple[list[Change], list[Announcement]]:
        """Move to trace time `until`; returns the changes on the way, and the memory decreases that they announce."""
        changes: list[Change] = []
        announced: list[Announcement] = []
        for change in self._traces.changes_between(self.time, until):
            device = change.target.removeprefix("device/") if change.quantity == "memory" else ""
            held = self._held(device, change.time_s) if device else 0
            key = (change.target, change.quantity)
            if change.value is None:
                self._values.pop(key, None)
            else:
                self._values[key] = change.value
            if device and self._ramp_Bps is not None and self._wanted_memory(device) < held:
                earlier = self._falls.get(device)
                due_s = change.time_s + RAMP_STEP_S if earlier is None else earlier.due_s
                self._falls[device] = _Fall(change.time_s, held, due_s)
                continue
            changes.append(change)
            if device:
                self._falls.pop(device, None)
                announced += self._hear(device, self._wanted_memory(device), boundary)
        for device, fall in [(name, fall) for name, fall in self._falls.items() if fall.due_s <= until]:
            held = self._held(device, until)
            changes.append(Change(until, f"device/{device}", "memory", held))
            announced += self._hear(device, held, boundary)
            if held > self._wanted_memory(device):
                self._falls[device] = replace(fall, due_s=until + RAMP_STEP_S)
            else:
                del self._falls[device]
        self.time = until
        self.changes += len(changes)
        return changes, announced

    def _held(self, device: str, time_s: float) -> int:
        """The memory that traces and ramp leave at a time, before anything is announced."""
        fall = self._falls.get(device)
        if fall is None or self._ramp_Bps is None:
            return self.visible_memory(device)
        fallen = self._ramp_Bps * (time_s - fall.since_s)
        return max(self._wanted_memory(device), int(fall.memory_bytes - fallen))

    def _hear(self, device: str, wanted: int, boundary: int) -> list[Announcement]:
        """Take in memory: it holds at once or is announced. A second decrease keeps the first one's boundary."""
        earlier = self._announced.pop(device, None)
        if wanted >= self._memory[device] or self._grace == 0:
            self._memory[device] = wanted
            return []
        since = boundary if earlier is None else earlier.boundary
        self._announced[device] = Announcement(device, wanted, since)
        return [self._announced[device]]

    def enforce(self, boundary: int, committed: bool) -> list[Announcement]:
        """Enforce and return what is due: every announcement at a commit, else those that have waited for `grace`."""
        due = [news for news in self._announced.values() if committed or boundary - news.boundary >= self._grace]
        for news in due:
            self._memory[news.device] = news.memory_bytes
            del self._announced[news.device]
        self.changes += len(due)
        return due

    def visible_memory(self, device: str) -> int:
        """The budget that a policy sees: the announced one, else the enforced one."""
        news = self._announced.get(device)
        return self._memory[device] if news is None else news.memory_bytes

    def announced_memory(self) -> dict[str, int]:
        """The budgets that are announced and not enforced yet."""
        return {name: news.memory_bytes for name, news in self._announced.items()}

    def enforced_memory(self, device: str) -> int:
        """The budget that is enforced now."""
        return self._memory[device]

    def strikes(self) -> list[SeriesKey]:
        """The devices that the traces have killed or started anew, each with the quantity."""
        return [key for key in self._values if key[1] in STRIKES]

    def hold_up(self) -> bool:
        """Whether traces hold up a link or a device now that they will let go again."""
        held = [
            key
            for key, value in self._values.items()
            if (not value if key[1] in RATES else value and key[1] == "pause")
        ]
        return any(self._traces.changes_again(key, self.time) for key in held)

    def target(self) -> TargetState:
        """What the fleet should be now."""
        if self._target is None or self._target[0] != self.changes:
            self._target = (self.changes, self._make_target())
        return self._target[1]

    def bearable(self) -> TargetState:
        """The target without pauses and outages, which would hold up the workers while they are made ready.

        They would never end, because the traces' clock has not started yet.
        """
        target, usual = self.target(), {cable.name: cable.link for cable in self._topology.links}
        links = {
            name: link
            if link.up_bps * link.down_bps
            else replace(link, up_bps=usual[name].up_bps, down_bps=usual[name].down_bps)
            for name, link in target.links.items()
        }
        return TargetState(links, {name: replace(device, paused=False) for name, device in target.devices.items()})

    def _make_target(self) -> TargetState:
        links: dict[str, LinkTarget] = {}
        devices: dict[str, DeviceTarget] = {}
        models = {device.name: device.model for device in self._topology.devices if device.link is not None}
        for cable in self._topology.links:
            changed = {
                name: self._values[f"link/{cable.name}", quantity]
                for quantity, names in _LINK_FIELDS.items()
                if (f"link/{cable.name}", quantity) in self._values
                for name in names
            }
            link = replace(cable.link, **changed) if changed else cable.link
            links[cable.name] = with_software(link, models.get(cable.name, PLAIN))
        for device in self._topology.devices:
            devices[device.name] = DeviceTarget(
                self._values.get((f"device/{device.name}", "streaming"), device.streaming_Bps),
                self._values.get((f"device/{device.name}", "compute"), device.compute_flops),
                self._memory[device.name],
                bool(self._values.get((f"device/{device.name}", "pause"), 0.0)),
            )
        return TargetState(links, devices)

    def _wanted_memory(self, device: str) -> int:
        return int(self._values.get((f"device/{device}", "memory"), self._topology.device(device).memory_bytes))


def _without(traces: TraceSet, keys: Container[SeriesKey]) -> TraceSet:
    """The traces without these series. Periods and ends stay as they are."""
    kept = []
    for trace in traces.traces:
        rows = tuple(change for change in trace.changes if (change.target, change.quantity) not in keys)
        if rows:
            kept.append(replace(trace, changes=rows))
    return TraceSet(tuple(kept))


def observe(
    experiment: Experiment,
    conditions: Conditions,
    prompt_tokens: int,
    tokens_done: int,
    hop_overhead_s: float = NOMINAL_HOP_S,
) -> Observation:
    """What a policy sees: rates by the traces as they are now, memory as announced, and the software's time per hop."""
    memory = {device.name: conditions.visible_memory(device.name) for device in experiment.topology.devices}
    return observation_of(experiment, conditions.target(), memory, prompt_tokens, tokens_done, hop_overhead_s)


def observation_of(
    experiment: Experiment,
    target: TargetState,
    memory: Mapping[str, int],
    prompt_tokens: int,
    tokens_done: int,
    hop_overhead_s: float,
) -> Observation:
    """The observation of a fleet in this target state; `memory` holds each device's bytes for blocks."""
    devices = tuple(
        DeviceView(
            device.name,
            memory[device.name],
            target.devices[device.name].streaming_Bps,
            target.devices[device.name].compute_flops,
            device.storage_Bps,
            device.model,
        )
        for device in experiment.topology.devices
    )
    links = {
        name: LinkView(link.up_bps, link.down_bps, link.up_delay_s, link.down_delay_s)
        for name, link in target.links.items()
    }
    return Observation(
        experiment.shape, experiment.partition, experiment.topology.source, devices, links,
        prompt_tokens, tokens_done, experiment.tokens, experiment.interval, experiment.weights, hop_overhead_s,
        routes=experiment.topology.routes, cost=experiment.cost,
    )  # fmt: skip
