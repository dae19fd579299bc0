"""The simulated fleet: commands in, events out, in virtual time.

The token being generated and the blocks being moved are jobs with an end. `events` lets time pass until the next one
ends. What a policy sees, the plan, the migration's steps and the run's tables come from the same controller that
drives the emulation.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Mapping
from typing import Any

from testbed.clock import EmulatedClock, VirtualTime
from testbed.controller.conditions import observation_of
from testbed.controller.fleet import DeviceLost, DeviceSample, FleetEvent, LinkSample, Samples, TargetState
from testbed.errors import RunFailed
from testbed.experiment.schema import Experiment
from testbed.placement.blocks import parse_block
from testbed.placement.cost.copying import while_copying
from testbed.placement.cost.forecast import Forecast, forecast_of
from testbed.placement.cost.model import chunk_rows, prefill_latency
from testbed.placement.observation import Observation
from testbed.placement.plan import Plan
from testbed.simulation.busy_time import BusyTime
from testbed.simulation.drawn_delays import drawn_delays
from testbed.simulation.facts import simulated_facts
from testbed.simulation.jobs import Generation, Job
from testbed.simulation.lives import Lives
from testbed.simulation.measuring import changed_links, pinged, probed
from testbed.simulation.memory import Memory
from testbed.simulation.moving import Moving
from testbed.simulation.replicas import Replicas
from testbed.simulation.span_notes import SpanNotes
from testbed.traces.model import SeriesKey
from testbed.transport.beats import Heartbeat
from testbed.transport.copying import Copy, Finish, Halt, Halted, Keep, Replicate
from testbed.transport.messages import (
    Abort,
    Aborted,
    Collect,
    Collected,
    Command,
    Commit,
    Committed,
    Connected,
    Decode,
    Hello,
    Interrupt,
    Interrupted,
    Load,
    Loaded,
    OutOfBudget,
    Pace,
    Paced,
    Ping,
    Prefill,
    Prepare,
    Probe,
    Probed,
    Rebuild,
    Rebuilt,
    Token,
    Transfer,
)


class SimFleet:
    """All devices of an experiment, in virtual time. `hop_overhead_s` is the software's time per message."""

    backend = "sim"
    replayed: frozenset[SeriesKey] = frozenset()
    beating = False
    sample_interval_s = math.inf
    stamp_noise_s = 0.0

    def __init__(self, experiment: Experiment, prompt_tokens: int, hop_overhead_s: float) -> None:
        self.experiment = experiment
        self._wall = VirtualTime()
        self.clock = EmulatedClock(wall=self._wall)
        self.names = [device.name for device in experiment.topology.devices]
        self._prompt_tokens = prompt_tokens
        self._hop_overhead_s = hop_overhead_s
        self._memory = Memory(experiment.shape, experiment.partition, self.names)
        self._pending: list[tuple[str, FleetEvent]] = []
        self._target: TargetState | None = None
        self._observation: Observation | None = None
        self._plan: Plan | None = None
        self._tokens = 0
        self._length = 0  # positions in the caches
        self._fits_until = -1  # as long as nothing else changes, every device holds its blocks up to this length
        self._generation: Generation | None = None
        self._forecast: Forecast | None = None  # for the present plan and conditions
        self._replicas = Replicas(self._memory, self._tell)
        self._moving = Moving(self._memory, self._replicas, self._tell)
        self._halting = False  # whether no token is to follow the present one
        self._probe: tuple[float, str, Probed] | None = None  # on its way: (when its last byte comes, to whom, what)
        self._busy = BusyTime(experiment.topology)
        rows = chunk_rows(prompt_tokens, experiment.prefill_chunk)
        self._notes = SpanNotes(rows, hop_overhead_s) if experiment.observation == "measured" else None
        self._lives = Lives(experiment.recovery.suspect_after)

    # --- Fleet -------------------------------------------------------------------------------------------

    def burst_bits(self, rate_bps: float) -> float:
        """None: the rate of a simulated link holds from the first bit on."""
        return 0.0

    def start(self) -> None:
        """Nothing has to be brought up."""

    def apply(self, target: TargetState) -> list[LinkSample]:
        """Change the conditions. What is under way goes on under the new ones."""
        before, self._target = self._target, target
        self._lives.note_pauses(target, self._wall())
        budgets = {name: device.memory_bytes for name, device in target.devices.items()}
        self._observation = observation_of(
            self.experiment, target, budgets, self._prompt_tokens, 0, self._hop_overhead_s
        )
        self._fits_until = -1
        self._moving.proceed(self._observation, self._wall())
        self._change_pace()
        for name, budget in budgets.items():
            if before is None or budget != before.devices[name].memory_bytes:
                self._check_budget(name, self._length)
        return changed_links(before, target)

    def replay_reports(self) -> list[LinkSample]:
        """Nothing: the controller replays the traces itself, in virtual time."""
        return []

    end_replay = replay_reports

    def send(self, device: str, command: Command) -> None:
        """Carry out a command. `events` gives the answer."""
        self._fits_until = -1
        if device in self._lives.dead:
            raise RunFailed(f"device {device} cannot be reached: it has died")
        match command:
            case Load():
                if command.pinned:
                    self._memory.pin(device)
                self._memory.take(device, map(parse_block, command.blocks))
                self._tell(device, Loaded(self._memory.held_bytes(device, 0)))
            case Prepare():
                self._length = max(self._length, command.length)
                budget_bytes = self._targeted().devices[device].memory_bytes
                self._moving.prepare(device, command, budget_bytes, self._observed(), self._wall())
            case Transfer():
                self._moving.transfer(device, command)
            case Copy():
                self._moving.copy(device, command, self._rows(), self._observed(), self._wall())
                self._change_pace()
            case Replicate():
                self._replicas.replicate(device, command, self._rows(), self._observed(), self._wall())
                self._change_pace()
            case Finish():
                self._moving.finish(command, self._observed(), self._wall())
            case Keep():
                self._replicas.keep(device, command, self._targeted().devices[device].memory_bytes)
            case Halt():
                self._halting = self._generation is not None
                if not self._halting:
                    self._tell(device, Halted(self._tokens))
            case Commit():
                self._memory.drop(device, map(parse_block, command.drop))
                self._plan = command.plan
                self._moving.commit(device)
                self._tell(device, Committed(command.plan.epoch, self._memory.held_bytes(device, self._length)))
            case Abort():
                self._moving.forget(device)
                self._change_pace()
                self._tell(device, Aborted(command.epoch))
            case Prefill():
                self._begin(Generation(command.until, self._wall(), command.chunk))
            case Decode():
                self._begin(Generation(command.until, self._wall()))
            case Collect():
                held = self._memory.held_bytes(device, self._length)
                self._tell(device, Collected(command.request, [], held, 0.0))
            case Interrupt():
                self._interrupt(device, command)
            case Rebuild():
                rows = len(command.ids)
                self._begin(Generation(self._tokens, self._wall(), command.chunk, rebuilt=rows, kept=command.start))
            case Ping():
                self._tell(device, pinged(self._observed(), device, command))
            case Probe():
                self._probe = probed(self._observed(), self._wall(), device, command)
            case Pace():
                self._tell(device, Paced([0.0] * command.count))
            case _:
                raise RunFailed(f"device {device}: a simulated fleet has no {type(command).__name__}")

    def kill(self, device: str) -> None:
        """See `Fleet.kill`. A token that needs the device stands still from now on."""
        if device not in self._lives.dead:
            self._end(device, DeviceLost(False, -signal.SIGKILL))

    def _end(self, device: str, loss: DeviceLost) -> None:
        self._lives.end(device)
        self._memory.clear(device)
        self._replicas.clear(device)
        self._pending = [(name, event) for name, event in self._pending if name != device]
        self._tell(device, loss)
        self._change_pace()

    def restart(self, device: str) -> None:
        """See `Fleet.restart`. Starting takes no time here."""
        self._lives.dead.discard(device)
        self._tell(device, Hello(0, ""))

    def introduce(self, device: str) -> list[str]:
        """See `Fleet.introduce`."""
        told = [name for name in self.names if name not in self._lives.dead]
        for name in told:
            self._tell(name, Connected())
        return told

    def events(self, timeout_s: float) -> list[tuple[str, FleetEvent]]:
        """The answers so far. Without any, time passes until something ends, or for `timeout_s` virtual seconds."""
        if not self._lives.divided(self._pending)[0] and self._generation is not None and self._generation.job is None:
            self._begin_token()
        if not self._lives.divided(self._pending)[0] and timeout_s > 0:
            self._pass_time(self._wall() + timeout_s)
        found, self._pending = self._lives.divided(self._pending)
        return found

    def beats(self) -> Mapping[str, Heartbeat]:
        """None: what hangs is lost in virtual time, without a sign."""
        return {}

    def observe(self) -> Samples:
        """What every device holds. Links have no queues here."""
        found = [
            DeviceSample(
                name, self._memory.held_bytes(name, self._length), None, 0, None, name not in self._lives.dead,
                self._targeted().devices[name].memory_bytes,
            )
            for name in self.names
        ]  # fmt: skip
        return Samples(found, [], spans=self._notes.take() if self._notes is not None else ())

    def facts(self) -> dict[str, Any]:
        """How the run was simulated, for the manifest."""
        return simulated_facts(self.experiment, self._hop_overhead_s, self._busy.seconds)

    def oom_kills(self) -> int:
        """None: there is no kernel here."""
        return 0

    def stop(self) -> None:
        """Nothing has to be taken down."""

    # --- time --------------------------------------------------------------------------------------------

    def _tell(self, device: str, event: FleetEvent) -> None:
        self._pending.append((device, event))

    def _pass_time(self, until_s: float) -> None:
        """Let time pass until the next job ends, or until `until_s` if that is sooner.

        Before it passes, blocks whose receivers have all prepared begin to move.
        """
        self._moving.begin_what_is_due(self._observed(), self._wall())
        if self._probe is not None and self._probe[0] <= until_s:
            end_s, receiver, probed = self._probe
            self._probe = None
            self._wall.advance(end_s)
            self._tell(receiver, probed)
            return
        job = self._generation.job if self._generation is not None else None
        token_end = job.end_s if job is not None else math.inf
        moving_end = self._moving.next_s
        if self._lives.next_s <= min(until_s, token_end, moving_end):
            self._wall.advance(self._lives.next_s)
            device, told = self._lives.give_up()
            self._end(device, DeviceLost(False, None, hung=told))
        elif min(token_end, moving_end) > until_s:
            self._wall.advance(max(until_s, math.nextafter(self._wall(), math.inf)))
        elif moving_end <= token_end:
            self._wall.advance(max(moving_end, self._wall()))
            self._moving.go_on(self._observed(), self._wall())
            self._change_pace()
        else:
            self._wall.advance(token_end)
            self._finish_token()

    # --- generating --------------------------------------------------------------------------------------

    def _begin(self, generation: Generation) -> None:
        self._generation, self._forecast = generation, None

    def _begin_token(self) -> None:
        """Begin the next token, unless a device cannot hold what it needs for it."""
        assert self._generation is not None
        if self._generation.rebuilt:
            self._generation.job = Job(self._token_seconds(), self._wall())
            return
        rows = chunk_rows(self._prompt_tokens, self._generation.chunk) if self._generation.chunk else (1,)
        for count in rows:
            self._length += count
            if self._length > self._fits_until and not self._fits():
                self._generation = None
                return
        self._generation.started_s = self._wall()
        self._generation.job = Job(self._token_seconds(), self._wall())

    def _token_seconds(self) -> float:
        """How long the present token takes in all under these conditions; infinite while a device in use is paused."""
        assert self._plan is not None and self._generation is not None
        target, observation = self._targeted(), while_copying(self._observed(), self._moving.paces)
        if any(self._lives.halts(name, target) for name in self._plan.devices()):
            return math.inf
        drawn = drawn_delays(self.experiment, observation, target.links, self._tokens)
        if self._generation.chunk:
            rebuilt, kept = self._generation.rebuilt, self._generation.kept
            rows = chunk_rows((rebuilt or self._prompt_tokens) - kept, self._generation.chunk)
            return prefill_latency(self._observed(), self._plan, rows, drawn, kept, not rebuilt)
        if drawn is not None:
            return drawn.step_seconds(self._plan, self._length, 1, True, True)
        if self._forecast is None:
            last = self._length + self._generation.until - self._tokens - 1
            self._forecast = forecast_of(observation, self._plan, last)
        return self._forecast.seconds(self._length)

    def _finish_token(self) -> None:
        generation, plan = self._generation, self._plan
        assert generation is not None and plan is not None and self._observation is not None
        if generation.rebuilt:
            self._generation = None
            self._tell(plan.source, Rebuilt(plan.epoch))
            return
        self._busy.add(self._observation, plan, self._length, generation.chunk)
        if self._notes is not None:
            self._notes.add(self._observation, plan, self._tokens, generation.started_s)
        token = Token(self._tokens, None, None, plan.epoch, generation.started_s, self._wall(), None, None)
        self._tell(plan.source, token)
        self._tokens += 1
        generation.chunk = 0
        generation.job = None
        if self._moving.add_row(self._observation, self._wall()):
            self._forecast = None
        if self._tokens == generation.until or self._halting:
            self._generation = None
        if self._halting:
            self._halting = False
            self._tell(plan.source, Halted(self._tokens))

    def _fits(self) -> bool:
        """Whether every device can hold its blocks at the present length; the first that cannot reports so.

        If all can at the last length of what is being generated, they can at each one before.
        """
        assert self._generation is not None and self._target is not None
        last = max(self._length, self._prompt_tokens + self._generation.until - 1)
        budgets = self._target.devices
        if all(self._memory.held_bytes(name, last) <= budgets[name].memory_bytes for name in self.names):
            self._fits_until = last
            return True
        return all(self._check_budget(name, self._length) for name in self.names)

    def _check_budget(self, device: str, length: int) -> bool:
        """Whether a device can hold its blocks at this length; if not, it reports so."""
        need, budget = self._memory.held_bytes(device, length), self._targeted().devices[device].memory_bytes
        if need > budget and self._replicas.make_room(device):
            need = self._memory.held_bytes(device, length)
        if need > budget:
            self._tell(device, OutOfBudget(length, need, budget))
        return need <= budget

    # --- moving ------------------------------------------------------------------------------------------

    def _change_pace(self) -> None:
        """The token under way goes on under other conditions."""
        self._forecast = None
        if self._generation is not None and self._generation.job is not None:
            self._generation.job.change(self._wall(), self._token_seconds())

    def _rows(self) -> int:
        return self._prompt_tokens + self._tokens - 1 if self._tokens else 0

    def _interrupt(self, device: str, command: Interrupt) -> None:
        """Drop the token under way and what was on its way to the device, and tell what the device holds."""
        self._generation, self._halting = None, False
        self._length = self._rows()
        self._moving.forget(device)
        blocks = [str(block) for block in self._memory.blocks(device)]
        tokens = self._tokens if device == self.experiment.topology.source else 0
        self._replicas.interrupt(self._observed(), self._wall())
        self._tell(device, Interrupted(command.epoch, blocks, tokens, 0, tuple(self._replicas.held(device))))

    def _observed(self) -> Observation:
        assert self._observation is not None
        return self._observation

    def _targeted(self) -> TargetState:
        assert self._target is not None
        return self._target
