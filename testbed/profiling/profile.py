"""A whole profile of this machine with one engine."""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from testbed.errors import EnvironmentLacks
from testbed.profiling.computing import Computing, ComputingProfiler, Probes
from testbed.profiling.decoders import Engine
from testbed.profiling.messages import LinkTimes, MessageTimes, time_link, time_messages
from testbed.profiling.numbers import Measured
from testbed.profiling.storage import storage_Bps


@dataclass(frozen=True)
class Machine:
    """This machine, as it names itself."""

    name: str
    title: str
    memory_bytes: int


@dataclass(frozen=True)
class Profile:
    """All that was measured."""

    machine: Machine
    engine: str
    version: str
    threads: int
    date: str
    computing: Computing
    messages: MessageTimes
    link: LinkTimes | None  # to a peer, if one was asked
    storage_Bps: Measured | None  # None where files lie in memory

    @property
    def entry_name(self) -> str:
        """What the entry is called: rates belong to a machine and an engine."""
        return f"{self.machine.name}-{self.engine.replace('.', '-')}"

    def unsteady(self) -> list[str]:
        """The rates whose rounds differ widely; raises EnvironmentLacks for one that the times do not give at all."""
        found = {f"streaming in {name}": one for name, one in self.computing.streaming_Bps.items()}
        found |= {f"compute in {name}": one for name, one in self.computing.compute_flops.items()}
        found["kv_streaming"] = self.computing.kv_streaming_Bps
        if self.storage_Bps is not None:
            found["storage"] = self.storage_Bps
        lacking = [name for name, one in found.items() if not math.isfinite(one.value)]
        if lacking:
            raise EnvironmentLacks(
                f"{', '.join(lacking)} cannot be told from times that contradict one another: stop what else runs on "
                "this machine and profile it again"
            )
        return [name for name, one in found.items() if one.wide]

    def to_dict(self) -> dict[str, Any]:
        """All numbers in SI units, each with the least and the most of its rounds."""
        return {
            "machine": asdict(self.machine), "engine": self.engine, "version": self.version, "threads": self.threads,
            "date": self.date, "rounds": self.computing.rounds,
            "streaming_Bps": _told(self.computing.streaming_Bps),
            "compute_flops": _told(self.computing.compute_flops),
            "kv_streaming_Bps": self.computing.kv_streaming_Bps._asdict(),
            "barrier_s": self.computing.barrier_s._asdict(),
            "messages": _told(self.messages._asdict()),
            "link": None if self.link is None else _told(self.link._asdict()),
            "storage_Bps": None if self.storage_Bps is None else self.storage_Bps._asdict(),
        }  # fmt: skip


def _told(numbers: dict[str, Measured]) -> dict[str, dict[str, float]]:
    return {name: one._asdict() for name, one in numbers.items()}


def profile(
    engine: Engine,
    probes: Probes,
    folder: Path,
    peer: tuple[str, int] | None = None,
    say: Callable[[str], None] = lambda remark: None,
) -> Profile:
    """Measure this machine with an engine. `folder` is where storage is measured, `peer` another machine's `Echo`."""
    storage = storage_Bps(folder)
    messages = time_messages()
    link = time_link(peer, messages) if peer is not None else None
    say(f"Making models of random weights for {engine.name}.")
    profiler = ComputingProfiler(engine, probes)
    try:
        for number in range(probes.rounds):
            say(f"Timing them, round {number + 1} of {probes.rounds}.")
            profiler.round()
        computing = profiler.result()
    finally:
        profiler.close()
    today = datetime.now(UTC).date().isoformat()
    return Profile(
        this_machine(), engine.name, engine.version, engine.threads, today, computing, messages, link, storage
    )


def this_machine() -> Machine:
    """The machine's name, what it is, and its memory."""
    memory = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    name = re.sub(r"[^A-Za-z0-9-]+", "-", platform.node()).strip("-").lower() or "this-machine"
    return Machine(name, f"{_board()}, {platform.machine()}", int(memory[1]) * 1024 if memory else 0)


def _board() -> str:
    """What a board says that it is; else the processor's name."""
    model = Path("/proc/device-tree/model")
    if model.exists():
        return model.read_text().strip("\0 \n")
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return found[1].strip() if found else platform.processor() or "unknown processor"
