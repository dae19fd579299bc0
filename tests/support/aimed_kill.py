"""A policy that kills a worker of its own run at a chosen moment, and says at which moment the kill came.

It runs inside the run's process, sees every command that the controller sends, and so knows what the run does. It moves
blocks at every decision. Use it as `policy: tests/support/aimed_kill.py:AimedKill`.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from testbed.emulation.process_fleet import ProcessFleet
from testbed.placement.blocks import Placement, blocks_of
from testbed.placement.cost.memory import shortages
from testbed.placement.observation import Observation
from testbed.placement.policies import make_policy
from testbed.transport.messages import Commit, Decode, Interrupt, Prefill, Prepare, Rebuild

PHASES = ("set-up", "prefill", "decode", "decision", "migration", "commit", "recovery")
MOVED = 6  # blocks at a decision
FIRST_AT = 1  # decode command at which the first device dies where the second dies in the recovery


class AimedKill:
    """Kills `victim` `after` seconds from the `turn`-th begin of `phase`.

    Where the phase is recovery, `first` dies before. Where it is commit, the kill comes before the `turn`-th device is
    told to commit.
    """

    name = "aimed-kill"

    def __init__(
        self, phase: str = "decode", victim: str = "b", first: str = "c", after: float = 0.0, turn: int = 1,
        report: str = "",
    ) -> None:  # fmt: skip
        self.phase, self.victim, self.first = phase, victim, first
        self.after, self.turn, self.report = after, turn, report
        self.inner: Any = make_policy("greedy", {})
        self.decisions, self.now, self.seen, self.decodes = 0, "set-up", 0, 0
        self.fleet: Any = None
        self._watch()

    # --- the policy --------------------------------------------------------------------------------------

    def reset(self, seed: int) -> None:
        """Begin anew."""
        self.inner.reset(seed)

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """Move some blocks to other devices with room, in turn."""
        if placement is None:
            return self.inner.decide(observation, None)
        if self.now != "recovery":
            self._begins("decision")
            if self.phase == "decision":
                time.sleep(0.4)
        self.decisions += 1
        names = [view.name for view in observation.devices if view.available_bytes > 2**22]
        blocks = blocks_of(observation.shape, observation.partition)
        wanted = placement
        for number in range(MOVED):
            block = blocks[(self.decisions * 37 + number * 11) % len(blocks)]
            tried = wanted.with_moves([(block, names[(self.decisions + number) % len(names)])])
            if not shortages(observation, placement, tried):
                wanted = tried
        return wanted

    # --- what the run does -------------------------------------------------------------------------------

    def _watch(self) -> None:
        start, send = ProcessFleet.start, ProcessFleet.send

        def started(fleet: Any) -> None:
            self.fleet = fleet
            self._begins("set-up")
            start(fleet)

        def sent(fleet: Any, device: str, command: Any) -> None:
            self._hears(command)
            send(fleet, device, command)

        ProcessFleet.start, ProcessFleet.send = started, sent  # type: ignore[method-assign]

    def _hears(self, command: Any) -> None:
        match command:
            case Prefill():
                self._begins("prefill")
            case Decode():
                self.decodes += 1
                if self.phase == "recovery" and self.decodes == FIRST_AT:
                    self._end(self.first)
                self._begins("decode")
            case Interrupt() if self.now != "recovery":
                self._begins("recovery")
            case Prepare() if self.now not in ("recovery", "migration"):
                self._begins("migration")
            case Commit() if self.now in ("decision", "migration", "commit"):
                self._begins("commit")
            case Rebuild():
                self.now = "recovery"

    def _begins(self, phase: str) -> None:
        self.now = phase
        if phase != self.phase:
            return
        self.seen += 1
        if self.seen == self.turn:
            if phase == "commit":
                self._kill()
            else:
                threading.Timer(self.after, self._kill).start()

    def _kill(self) -> None:
        deadline = time.monotonic() + 5.0
        while self.victim not in self.fleet._processes and time.monotonic() < deadline:
            time.sleep(0.01)
        hit = self.now
        self._end(self.victim)
        if self.report:
            Path(self.report).write_text(json.dumps({"phase": hit, "device": self.victim}))

    def _end(self, device: str) -> None:
        os.kill(self.fleet._processes[device].pid, signal.SIGKILL)
