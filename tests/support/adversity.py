"""Draws experiments whose devices die, return, hang and run out of memory in odd ways, and judges their runs."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from testbed.controller.calibration import NOMINAL
from testbed.controller.generation import Controller, Outcome
from testbed.controller.run_state import RunState
from testbed.experiment.prompt import prompt_ids
from testbed.experiment.schema import Experiment
from testbed.placement.blocks import Block, Placement, blocks_of
from testbed.placement.policies import make_policy
from testbed.runlog.folder import TABLES, RunLog, read_rows
from testbed.simulation.fleet import SimFleet
from testbed.transport.messages import Token

Row = Mapping[str, Any]

RESTLESS = '''
"""A policy that places and moves blocks at random, wherever they fit."""

import random

from testbed.placement.blocks import Placement, blocks_of
from testbed.placement.cost.memory import Infeasible, shortages


class Restless:
    name = "restless"

    def __init__(self, moves=6):
        self.moves = moves

    def reset(self, seed):
        self.seed = seed

    def decide(self, observation, placement):
        drawn = random.Random(f"{self.seed}/{observation.tokens_done}/{placement is None}")
        names = [view.name for view in observation.devices]
        blocks = blocks_of(observation.shape, observation.partition)
        for attempt in range(60):
            if placement is None or attempt > 20:
                some = drawn.sample(names, drawn.randint(1, len(names)))
                wanted = Placement({block: drawn.choice(some) for block in blocks})
            else:
                some = drawn.sample(blocks, min(len(blocks), self.moves))
                wanted = placement.with_moves((block, drawn.choice(names)) for block in some)
            if not shortages(observation, placement, wanted) and not shortages(observation, None, wanted):
                return wanted
        raise Infeasible("nothing drawn fits")
'''

POLICIES = (
    "round-robin", "greedy", "headroom", "static", "paper", "paper-search", "edgeshard", "galaxy", "layerwise",
    "tensor-parallel", "single", "dynamic-threshold", "exact", "restless", "restless", "restless", "restless",
)  # fmt: skip
NAMES = ("a", "b", "c", "d"), ("a", "b-c", "c", "d"), ("N1", "n-2", "x0", "X"), ("a", "b", "c", "d", "e", "f")
LINK = {"rate": "200 Mbit/s", "delay": "0.2 ms"}


def drawn(seed: int, folder: Path, clock: str | None = None) -> dict[str, Any]:
    """The experiment of this number, as a mapping. Its policy may be a file in the folder."""
    chance = random.Random(f"adversity/{seed}")
    names = NAMES[0] if chance.random() < 0.8 else chance.choice(NAMES)
    on_tokens = (clock or chance.choice(("token", "token", "time"))) == "token"
    tokens, interval = chance.choice((1, 9, 16, 24, 60)), chance.choice((1, 2, 4, 8, 30))
    policy = chance.choice(POLICIES)
    mapping: dict[str, Any] = {
        "name": f"adversity-{seed}",
        "model": {"preset": chance.choice(("tiny", "tiny-llama")), "seed": 7},
        "prompt": "Where do the heads go?"[: chance.choice((1, 5, 22))],
        "tokens": tokens,
        "interval": interval,
        "topology": _topology(chance, names),
        "trace_clock": "token" if on_tokens else "time",
        "policy": policy,
        "prefill_chunk": chance.choice((1, 4, 32)),
        "grace": chance.choice((0, 0, 1, 2)),
        "migration": chance.choice(("stop", "live", "live", "auto")),
        "seed": seed,
        "recovery": {
            "on_exit": "fail" if chance.random() < 0.03 else "recompute",
            "on_oom": chance.choice(("fail", "recompute")),
            "method": chance.choice(("recompute", "replicate", "replicate", "auto")),
        },
    }  # fmt: skip
    if policy == "restless":
        (folder / "restless.py").write_text(RESTLESS)
        mapping["policy"] = f"{folder / 'restless.py'}:Restless"
        mapping["policy_options"] = {"moves": chance.choice((1, 3, 12))}
    if chance.random() < 0.3:
        mapping["recovery"]["suspect_after"] = chance.choice(("1 s", "2 s", "100000 s"))
    if chance.random() < 0.1:
        mapping["weights"] = "shipped"
    if chance.random() < 0.2:
        mapping["observation"] = "measured"
    if chance.random() < 0.3:
        mapping["sampling"] = {"temperature": 1.3, "top_k": 40}
    if chance.random() < 0.2:
        mapping["ramp"] = "1 MB/s"
    if chance.random() < 0.1:
        mapping["partition"] = {"ffn_shards": 2}
    rows = list(_faults(chance, names, tokens, on_tokens, list(_links(mapping["topology"]))))
    mapping["traces"] = [{"name": "adversity", "end": "hold", "period": None, "changes": rows}] if rows else []
    return mapping


def _topology(chance: random.Random, names: Sequence[str]) -> dict[str, Any]:
    tight = chance.random() < 0.4
    rate = chance.choice(("200 Mbit/s", "20 Mbit/s", "2 Mbit/s"))
    shape = chance.choice(("star", "star", "wifi", "two-tier", "ring", "mesh"))
    devices = {}
    for name in names:
        memory = f"{chance.choice((300, 500, 800)) if tight else 65536} KiB"
        devices[name] = {"streaming": "2 GB/s", "compute": "10 GFLOP/s", "memory": memory, "storage": "2 GB/s"}
        if shape in ("star", "two-tier"):
            devices[name]["link"] = {"rate": rate, "delay": "0.2 ms"}
    devices[names[0]]["memory"] = "2 MiB" if tight else "64 MiB"
    found: dict[str, Any] = {"shape": shape, "source": names[0], "devices": devices}
    if shape == "wifi":
        found["medium"] = {"rate": rate, "delay": "0.3 ms"}
    if shape == "two-tier":
        found["clusters"] = {"home": list(names[:2]), "shed": list(names[2:])}
        found["backhaul"] = {"rate": rate, "delay": "1 ms"}
    if shape in ("ring", "mesh"):
        found["link"] = {"rate": rate, "delay": "0.2 ms"}
    return found


def _links(topology: Mapping[str, Any]) -> Sequence[str]:
    if topology["shape"] == "wifi":
        return ["medium"]
    return list(topology["devices"]) if topology["shape"] == "star" else []


def _faults(
    chance: random.Random, names: Sequence[str], tokens: int, on_tokens: bool, links: Sequence[str]
) -> list[tuple[float, str, str, float]]:
    """Rows of a trace: (time, target, quantity, value)."""
    end = tokens if on_tokens else tokens * chance.choice((0.003, 0.02, 0.2))
    rows = []
    moments = [0.0, 0.0, end, end + 3, end * chance.random(), end * chance.random(), end * chance.random()]
    for _ in range(chance.choice((0, 1, 2, 3, 5, 8))):
        moment = chance.choice(moments) if chance.random() < 0.6 else chance.uniform(0, end)
        if on_tokens and chance.random() < 0.8:
            moment = float(round(moment))
        name = chance.choice(names[1:]) if chance.random() < 0.985 else names[0]
        what = chance.choice(("kill", "kill", "kill", "restart", "restart", "memory", "outage", "pause"))
        if what == "memory":
            rows.append((moment, f"device/{name}", "memory", chance.choice((0, 200, 400, 600, 4096)) * 1024.0))
        elif what == "outage" and links and not on_tokens:
            link = f"link/{chance.choice(links)}"
            rows += [(moment, link, way, 0.0) for way in ("up", "down")]
            rows += [(moment + chance.choice((0.01, 0.3)), link, way, 2e7) for way in ("up", "down")]
        elif what == "pause" and not on_tokens:
            rows.append((moment, f"device/{name}", "pause", 1.0))
            rows.append((moment + chance.choice((0.01, 0.5, 4.0)), f"device/{name}", "pause", 0.0))
        elif what in ("kill", "restart"):
            rows.append((moment, f"device/{name}", what, 1.0))
            if chance.random() < 0.4:
                rows.append((moment + chance.choice((0.0, 0.0, 1.0, 2.0)), f"device/{name}", "restart", 1.0))
    return sorted(rows, key=lambda row: row[0])


class Honest(SimFleet):
    """A simulated fleet that notes every token for which a device lacks a block that is placed on it."""

    def __init__(self, of: Experiment, prompt_tokens: int) -> None:
        super().__init__(of, prompt_tokens, NOMINAL.hop_overhead_s)
        self.state = RunState()
        self.lacks: list[str] = []

    def events(self, timeout_s: float) -> Any:
        """See `Fleet.events`."""
        found = super().events(timeout_s)
        placement = self.state.placement
        for _, event in found:
            if isinstance(event, Token) and placement is not None and event.epoch == placement.epoch:
                self.lacks += [f"token {event.step}: {b} is not on {d}" for b, d in self.missing(placement)]
        return found

    def missing(self, placement: Placement) -> list[tuple[Block, str]]:
        """The blocks that a living device lacks."""
        held = {name: set(self._memory.blocks(name)) for name in self.names}
        return [(b, d) for b, d in placement.devices.items() if b not in held[d] and d not in self.state.lost]

    def too_many(self, placement: Placement) -> list[tuple[Block, str]]:
        """The blocks on living devices that are placed elsewhere."""
        living = [name for name in self.names if name not in self.state.lost]
        return [(b, d) for d in living for b in self._memory.blocks(d) if placement.devices[b] != d]


def simulated(of: Experiment, folder: Path) -> tuple[Outcome, list[str], dict[str, list[Row]]]:
    """Simulate a drawn experiment; returns how it ended, what is wrong about that, and its tables."""
    prompt, log = prompt_ids(of, computed=False), RunLog.create(folder, "adversity", "drawn")
    fleet = Honest(of, len(prompt))
    policy = make_policy(of.policy, of.policy_options, of.placement)
    controller = Controller(of, prompt, fleet, policy, log, effort="off")
    fleet.state = state = controller._state
    outcome = controller.run()
    log.close()
    kept = {table: read_rows(log.folder, table) for table in TABLES}
    wrong = [*fleet.lacks, *misfits(of, outcome.status, str(outcome.error or ""), kept)]
    if (
        outcome.status == "done"
        and state.placement is not None
        and not state.lost & {*state.placement.devices.values()}
    ):
        wrong += [f"in the end {b} is not on {d}" for b, d in fleet.missing(state.placement)]
        wrong += [f"in the end {b} is on {d}, too" for b, d in fleet.too_many(state.placement)]
    return outcome, wrong, kept


NEVER = (
    "cannot happen",
    "sent no",
    "gave no answer",
    "has generated",
    "cannot be reached",
    "bug in",
    "Traceback",
    "\n",
)


def misfits(of: Experiment, status: str, error: str, kept: Mapping[str, Sequence[Row]]) -> list[str]:
    """What in a run's end and tables does not fit together, as sentences."""
    wrong = [f"it ended with: {error}" for word in NEVER if word in error]
    steps = [row["step"] for row in kept["tokens"]]
    if steps != list(range(len(steps))) or (status == "done" and len(steps) != of.tokens):
        wrong.append(f"{status} with the tokens {steps}")
    if bool(error) == (status == "done"):
        wrong.append(f"{status} with the error {error!r}")
    owners: dict[int, dict[str, str]] = {}
    blocks = sorted(map(str, blocks_of(of.shape, of.partition)))
    for epoch in sorted({row["epoch"] for row in kept["placements"]}):
        placed = [row for row in kept["placements"] if row["epoch"] == epoch]
        owners[epoch] = {row["block"]: row["device"] for row in placed}
        if sorted(row["block"] for row in placed) != blocks:
            wrong.append(f"epoch {epoch} has not every block once")
    wrong += [f"token {row['step']} has no placement" for row in kept["tokens"] if row["epoch"] not in owners]
    if status == "done" and steps:
        on_time = of.trace_clock == "time"
        end = kept["tokens"][-1]["start_s"] if on_time else steps[-1]
        kills = [c for trace in of.traces.traces for c in trace.changes if c.quantity == "kill"]
        due = {c.target.removeprefix("device/") for c in kills if (c.time_s if on_time else math.ceil(c.time_s)) <= end}
        wrong += [f"{name} was to die" for name in due - {row["device"] for row in kept["faults"]}]
    losses = [row for row in kept["faults"] if row["cause"] != "late" and row["recovering"]]
    recoveries = kept["recoveries"]
    for row in losses:
        at = [one for one in recoveries if one["step"] == row["step"] and row["device"] in one["devices"].split(",")]
        if row["step"] < len(steps) and not at:
            wrong.append(f"the loss of {row['device']} at {row['step']} has no recovery")
    for row in recoveries:
        if not any(one["step"] == row["step"] for one in losses):
            wrong.append(f"the recovery at {row['step']} has no loss")
        if set(owners[row["epoch"]].values()) & set(row["devices"].split(",")):
            wrong.append(f"the recovery at {row['step']} leaves blocks on the lost")
        known = len(prompt_ids(of)) + row["step"] - 1 if row["step"] else 0
        if row["rows"] + row["kept_rows"] != known or min(row["rows"], row["kept_rows"]) < 0:
            wrong.append(f"the recovery at {row['step']} counts {row['rows']} and {row['kept_rows']} of {known} rows")
        times = [row[key] for key in ("noticed_s", "decided_s", "committed_s", "rebuilt_s", "token_s") if row.get(key)]
        if times != sorted(times):
            wrong.append(f"the recovery at {row['step']} has the times {times}")
    wrong += [f"a stall of {row['stall_s']} s" for row in kept["decisions"] if (row.get("stall_s") or 0.0) < -1e-6]
    return wrong
