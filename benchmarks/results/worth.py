"""Measures what migration is worth: policies that migrate, against the best placement that never moves.

`python -m benchmarks.results.worth` simulates drawn fleets of 4, 8 and 25 devices. In each a third of the devices lose
memory at some time, links change, or both. `--cell` prints the experiment of a cell, for `testbed replay`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

import pandas as pd

from benchmarks.results import store
from benchmarks.results.play import Played, play
from testbed.controller.calibration import NOMINAL_HOP_S
from testbed.controller.conditions import Conditions, observe
from testbed.experiment.schema import Experiment
from testbed.placement.blocks import Placement
from testbed.placement.cost.memory import Infeasible
from testbed.placement.observation import Observation
from testbed.placement.policies import make_policy
from testbed.placement.policies.static import Static

NAME = "worth"
DEVICES = (4, 8, 25)
COLLECTED = (4, 25, 8)  # in this order
MEMORIES = ("1.4 x model", "2 x model")
SEEDS = range(1, 21)
TOKENS, INTERVAL = 96, 16
FFN_SHARDS = 4
RESERVES = (0.0, 0.1, 0.2, 0.3)  # shares of the memory seen that `static` keeps free
EFFORT = 0.25  # of headroom's usual number of moves, for the first placement of `static`
MIGRATING = ("paper", "paper-search")
FROZEN = ", first placement"  # the same policy without its later decisions
LEAST_TAKEN, MOST_TAKEN = 0.1, 0.3  # of a device's memory
LOSING = 1 / 3  # of the devices
AWAY = 2 * INTERVAL  # tokens until memory that returns is back
LINKS = {"generate": "fluctuation", "target": "link/*", "step": INTERVAL}
SPEEDS = {"generate": "fluctuation", "target": "device/*", "step": INTERVAL}
SCENARIOS = ("links only", "announced", "unannounced", "returns", "all together")


class Cell(NamedTuple):
    """A fleet and what happens to it."""

    devices: int
    memory: str
    scenario: str
    seed: int

    @property
    def key(self) -> str:
        """The file name of its part."""
        return "-".join(str(part).replace(" ", "_") for part in self)


def planned() -> list[Cell]:
    """All cells, fleets of one size after the other."""
    return [
        Cell(devices, memory, scenario, seed)
        for devices in COLLECTED
        for seed in SEEDS
        for memory in MEMORIES
        for scenario in SCENARIOS
    ]


def experiment_of(cell: Cell) -> dict[str, Any]:
    """The experiment file of a cell as a mapping."""
    base: dict[str, Any] = {
        "name": f"worth-{cell.key}",
        "model": {"preset": "gpt2", "seed": 7},
        "prompt": "Where do the heads go?",
        "tokens": TOKENS,
        "interval": INTERVAL,
        "partition": {"ffn_shards": FFN_SHARDS},
        "topology": {"generate": "paper", "devices": cell.devices, "memory": cell.memory},
        "policy": "paper",
        "seed": cell.seed,
        "grace": 0 if cell.scenario == "unannounced" else 2,
    }
    links = cell.scenario in ("links only", "all together")
    traces: list[dict[str, Any]] = [LINKS, SPEEDS] if cell.scenario == "all together" else [LINKS] if links else []
    if cell.scenario != "links only":
        fleet = Experiment.from_dict(base, base["name"])
        traces += losses(fleet, cell.seed, returns=cell.scenario in ("returns", "all together"))
    return base | {"traces": traces}


def losses(fleet: Experiment, seed: int, returns: bool) -> list[dict[str, Any]]:
    """The traces that take memory from a third of the devices, but not from the source, each at its own boundary."""
    drawn = Random(f"{NAME}/{len(fleet.topology.devices)}/{seed}")
    devices = [device for device in fleet.topology.devices if device.name != fleet.topology.source]
    losing = sorted(devices, key=lambda device: (drawn.random(), device.name))[: max(1, round(LOSING * len(devices)))]
    traces = []
    for device in losing:
        taken = int(device.memory_bytes * (LEAST_TAKEN + (MOST_TAKEN - LEAST_TAKEN) * drawn.random()))
        at = INTERVAL * (1 + int(drawn.random() * (TOKENS // INTERVAL - 1 - AWAY // INTERVAL)))
        traces.append({
            "generate": "memory-squeeze", "target": f"device/{device.name}", "memory": f"{device.memory_bytes} B",
            "taken": f"{taken} B", "at": at, **({"duration": AWAY} if returns else {}),
        })  # fmt: skip
    return traces


class Kept:
    """A given placement for the whole run."""

    name = "kept"

    def __init__(self, placement: Placement) -> None:
        self.placement = placement

    def reset(self, seed: int) -> None:
        """Nothing is remembered."""

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """The given placement."""
        return self.placement if placement is None else placement


def rows_of(cell: Cell, first: dict[Any, Placement | None]) -> Iterator[dict[str, Any]]:
    """The rows of all policies in a cell. `first` has static's placements, which the scenarios of a fleet share."""
    mapping = experiment_of(cell)
    experiment = Experiment.from_dict(mapping, mapping["name"])
    for name in MIGRATING:
        played = play(experiment, make_policy(name, {}))
        yield _row(cell, name, None, played)
        if played.first is not None:
            yield _row(cell, name + FROZEN, None, play(experiment, Kept(played.first)))
    for reserve in RESERVES if cell.scenario != "links only" else RESERVES[:1]:  # nothing takes memory there
        key = cell.devices, cell.memory, cell.seed, reserve
        if key not in first:
            first[key] = static_placement(Experiment.from_dict(mapping | {"traces": []}, mapping["name"]), reserve)
        placement = first[key]
        stays = Played("infeasible", refused_at=0) if placement is None else play(experiment, Kept(placement))
        yield _row(cell, "static", reserve, stays)


def static_placement(fleet: Experiment, reserve: float) -> Placement | None:
    """The placement of `static` for the values around which links and speeds fluctuate; None if none fits.

    Of all candidates headroom alone is asked, whose first placement is nearly always the best.
    """
    conditions = Conditions(fleet)
    conditions.begin()
    assert fleet.prompt_tokens is not None
    seen = observe(fleet, conditions, fleet.prompt_tokens, 0, NOMINAL_HOP_S)
    static = Static(candidates=[lambda: make_policy("headroom", {"effort": EFFORT})], reserve=reserve)
    static.reset(fleet.seed)
    try:
        return static.decide(seen, None)
    except Infeasible:
        return None


def _row(cell: Cell, policy: str, reserve: float | None, played: Played) -> dict[str, Any]:
    return {
        **cell._asdict(),
        "policy": policy,
        "reserve": reserve,
        "status": played.status,
        "tokens_done": played.tokens_done,
        "token_ms": played.cost_ms if played.status == "done" else None,
        "stall_ms": 1e3 * played.stall_s,
        "moved": played.moved,
        "refused_at": played.refused_at,
        "most_share": max((one.most_share for one in played.intervals), default=None),
    }


def main() -> None:
    """Simulate the missing cells and save the table, or print a cell's experiment."""
    parser = store.arguments(NAME, __doc__)
    parser.add_argument("--cell", nargs=4, metavar=("DEVICES", "MEMORY", "SCENARIO", "SEED"),
                        help="print this cell's experiment as JSON, which is YAML too")  # fmt: skip
    options = parser.parse_args()
    if options.cell is not None:
        devices, memory, scenario, seed = options.cell
        cell = Cell(int(devices), memory, scenario, int(seed))
        if cell not in planned():
            parser.error(f"no such cell: {cell}")
        print(json.dumps(experiment_of(cell), indent=2))
        return
    save(collect(options))


def collect(options: argparse.Namespace) -> store.Parts:
    """Simulate the missing cells in order until the time is up."""
    seeds = store.share_of(SEEDS, options)  # a process has whole fleets, whose scenarios share first placements
    first: dict[Any, Placement | None] = {}
    cells = [cell for cell in planned() if cell.seed in seeds]
    return store.collect(cells, lambda cell: cell.key, lambda cell: rows_of(cell, first), options, NAME)


def save(parts: store.Parts) -> None:
    """Write the table from the finished parts."""
    found = [parts.find(cell.key) for cell in planned()]
    frame = pd.DataFrame([row for rows in found for row in rows or []])
    store.save(NAME, frame, store.how_obtained(
        f"python -m benchmarks.results.{NAME}", "simulated", parts.seconds(), sorted(frame["seed"].unique().tolist()),
        [f"{1e3 * NOMINAL_HOP_S:g} ms of software for a hop"], commit=parts.commits(),
        runs_missing=sum(rows is None for rows in found),
    ))  # fmt: skip


def section(frame: pd.DataFrame, how: store.How) -> str:
    """The section of the page on what migration is worth."""
    from benchmarks.results import worth_page as told
    from benchmarks.results.drawing import image
    from benchmarks.results.paired import prose

    told.draw(frame, NAME)
    reserves = ", ".join(f"{reserve:g}" for reserve in RESERVES)
    text = [
        "## Migration's worth: against the best placement that never moves",
        prose(f"""A GPT-2 with FFNs in {FFN_SHARDS} shards on drawn fleets of 4, 8 and 25 devices; {TOKENS} tokens, a
            decision every {INTERVAL}. A third of the devices, but not the source, lose {LEAST_TAKEN:.0%} to
            {MOST_TAKEN:.0%} of their memory, each at a time of its own. `static` keeps headroom's first placement for
            the whole run. It is found with a quarter of the usual effort, at the values around which links and speeds
            fluctuate, and with a share of each device's memory kept free: in each setting the best of {reserves}. The
            settings:"""),
        told.words(),
        image(NAME, "Runs finished, and time saved against the best static placement, in each setting"),
        told.legend(),
    ]
    for memory in MEMORIES:
        text += [f"**Memory {memory}** in all:", told.settings_table(frame, memory)]
    text += ["**Against the same policy's first placement**, kept for the whole run; fleets of all sizes:"]
    return "\n\n".join([*text, told.frozen_table(frame), store.obtained(how)])


if __name__ == "__main__":
    main()
