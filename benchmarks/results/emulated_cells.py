"""The cells that are emulated to test the cost model: one drawn from each of 36 strata, and the paper's small setting.

A stratum is a model, a number of devices, loose or tight memory, and a short or long prompt. Within it, the network,
the devices' streaming rate and the seed are drawn until both policies finish early enough and the host keeps up by the
dry run's rule. Every third stratum has fast devices, which are emulated slower than life; the others keep its pace. In
half of the strata with loose memory the first policy must be predicted to be 15 % faster than the second. The drawing
looks at predictions and never at a measurement.

`emulated-cells.json` keeps the drawn cells.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import Any

import msgspec

from benchmarks.results.cells import FFN_SHARDS, LOOSE_TIMES_DEVICES, TIGHT
from benchmarks.results.store import ROOT
from testbed.controller.calibration import NOMINAL, NOMINAL_SPEED, HostCalibration
from testbed.controller.host_speed import held_up_here, too_slow_here
from testbed.experiment.schema import Experiment
from testbed.placement.cost.memory import Infeasible
from testbed.placement.cost.model import prefill_latency, token_latency
from testbed.placement.plan import make_plan
from testbed.placement.policies import make_policy
from testbed.running.dry_run import operations_at_once
from testbed.running.first_observation import first_observation

FILE = ROOT / "benchmarks" / "results" / "emulated-cells.json"
PAPER = "one layer of 32 heads"
# Two of 22 layers, and 2/22 of the vocabulary, so that the LM head keeps its share of a token.
TWO_LAYERS = "tinyllama-1.1b, 2 layers"
MODELS: Mapping[str, Mapping[str, Any]] = {
    "gpt2": {"preset": "gpt2", "seed": 7},
    "smollm2-135m": {"preset": "smollm2-135m"},
    TWO_LAYERS: {"preset": "tinyllama-1.1b", "layers": 2, "vocab": 2912, "seed": 7},
    PAPER: {"preset": "gpt2", "layers": 1, "heads": 32, "vocab": 1024, "seed": 7},
}
DRAWN_MODELS = tuple(name for name in MODELS if name != PAPER)
DEVICES = (4, 6, 8)
MEMORIES = ("loose", "tight")
PROMPT_TOKENS = {"short": 32, "long": 256}
DELAYS_MS = (0.1, 0.3, 1.0, 3.0)
RATES_MBPS = (20, 100, 1000)
# Median megabytes per second. SmolLM2's numbers are packed in 4 bits, so its bytes take the host longer.
STREAMING_MBPS = {"gpt2": (300, 500, 800, 1200, 2000), TWO_LAYERS: (300, 500, 800, 1200, 2000),
                  "smollm2-135m": (50, 80, 130, 200, 320, 450)}  # fmt: skip
FAST_MBPS = {"gpt2": 4000, TWO_LAYERS: 4000, "smollm2-135m": 1000}
DILATIONS = (2, 4, 8)  # of fast devices; the smallest with which the host keeps up
FLOPS_PER_BYTE = {"gpt2": 8, TWO_LAYERS: 8, "smollm2-135m": 50}  # about 32 for each number
PAIRS = (("headroom", "layerwise"), ("paper-search", "edgeshard"))
CUTTING_PAIR = ("headroom", "paper-search")  # where memory is tight and a layer is half of the model
PAPER_PAIR = ("paper", "greedy")
PAPER_DEVICES, PAPER_SEEDS = (3, 5), 2  # the first seeds that the host can keep up with
PAPER_DILATIONS = (8, 16, 32, 64)
TOKENS = (32, 24, 16, 12)  # the first number with which a run is short enough
LONGEST_S = 8.0  # of prefill and decoding on the wall
GAIN = 1.15
DRAWS = 80  # in each stratum before it does without the wanted gain
REPEATED, REPETITIONS = 12, 3


@dataclass(frozen=True)
class Cell:
    """One experiment that is emulated under two policies, and what was predicted of it before."""

    model: str
    devices: int
    memory: str
    context: str
    delay_ms: float
    rate_Mbps: float
    streaming_MBps: int
    seed: int
    dilation: int
    tokens: int
    policies: tuple[str, str]
    repetitions: int = 1
    token_ms: tuple[float, float] = (0.0, 0.0)  # predicted with the nominal time per hop, for each policy
    wall_s: tuple[float, float] = (0.0, 0.0)  # of prefill and decoding, predicted for each policy

    @property
    def key(self) -> str:
        """A name for files that no other cell has."""
        words = (self.model, self.devices, self.memory, self.context, self.seed)
        return "-".join("".join(c if c.isalnum() or c in "._" else "_" for c in str(word)) for word in words)

    @property
    def gain(self) -> float:
        """The second policy's predicted time over that of the first."""
        return self.token_ms[1] / self.token_ms[0]

    def experiment(self, policy: str) -> Experiment:
        """The experiment of this cell under a policy, with its devices drawn."""
        mapping = {
            "name": self.key,
            "model": dict(MODELS[self.model]),
            "prompt": {"ids": [1 + number % 200 for number in range(PROMPT_TOKENS[self.context])]},
            "tokens": self.tokens,
            "ignore_eos": True,
            "policy": policy,
            "seed": self.seed,
            "dilation": self.dilation,
        }
        return Experiment.from_dict(mapping | (self._paper() if self.model == PAPER else self._drawn()), self.key)

    def _drawn(self) -> dict[str, Any]:
        times = LOOSE_TIMES_DEVICES * self.devices
        return {
            "interval": self.tokens,  # nothing changes in a cell, so there is one decision
            "partition": {"ffn_shards": FFN_SHARDS},
            "topology": {
                "generate": "paper",
                "devices": self.devices,
                "memory": TIGHT if self.memory == "tight" else f"{times} x model",
                "streaming": f"{self.streaming_MBps} MB/s",
                "compute": f"{FLOPS_PER_BYTE[self.model] * self.streaming_MBps / 1e3:g} GFLOP/s",
                "rate": f"{self.rate_Mbps:g} Mbit/s",
                "delay": f"{self.delay_ms:g} ms",
            },
        }

    def _paper(self) -> dict[str, Any]:
        """Compute decides on every device, memory is 2 to 8 GB, links carry 1 to 10 Gbit/s, and weights travel."""
        return {
            "interval": 1,
            "weights": "shipped",
            "topology": {
                "generate": "paper",
                "devices": self.devices,
                "memory": "4 GB",
                "streaming": f"{self.streaming_MBps} MB/s",
                "compute": "16 GFLOP/s",
                "rate": ["1 Gbit/s", "10 Gbit/s"],
                "delay": f"{self.delay_ms:g} ms",
            },
        }


@dataclass(frozen=True)
class Foreseen:
    """What the cost model and the dry run's rule say of a run."""

    token_s: float  # emulated
    wall_s: float
    held: bool  # whether the host keeps up


def foresee(experiment: Experiment, host: HostCalibration = NOMINAL) -> Foreseen:
    """Predict a run as a dry run does; raises Infeasible if the policy has no placement."""
    assert experiment.prompt_tokens is not None
    seen = first_observation(experiment, experiment.prompt_tokens, host)
    policy = make_policy(experiment.policy, experiment.policy_options, experiment.placement)
    policy.reset(experiment.seed)
    plan = make_plan(seen, policy.decide(seen, None))
    token_s = token_latency(seen, plan, experiment.prompt_tokens + experiment.tokens // 2)
    total_s = prefill_latency(seen, plan, experiment.prefill_chunk) + (experiment.tokens - 1) * token_s
    speed = host.speed or NOMINAL_SPEED
    operations = operations_at_once(seen, plan, experiment.dilation, speed)
    slow = too_slow_here(speed, operations) or held_up_here(speed, operations, token_s * experiment.dilation)
    return Foreseen(token_s, total_s * experiment.dilation, not slow)


def load() -> list[Cell]:
    """The drawn cells, in an order in which any first part is a fair sample."""
    return msgspec.json.decode(FILE.read_bytes(), type=list[Cell])


def draw() -> list[Cell]:
    """Draw the cells and write them to their file."""
    strata = list(itertools.product(DRAWN_MODELS, DEVICES, MEMORIES, PROMPT_TOKENS))
    cells = [_first(number, stratum) for number, stratum in enumerate(strata)] + [*_paper_cells()]
    Random("emulated").shuffle(cells)
    cells = _repeated(cells)
    FILE.write_text(json.dumps([asdict(cell) for cell in cells], indent=1) + "\n", encoding="utf-8")
    return cells


def _first(number: int, stratum: tuple[str, int, str, str]) -> Cell:
    """The first cell drawn in a stratum that is as wanted; raises RuntimeError if there is none."""
    fast, gains = number % 3 == 2, stratum[2] == "loose" and (number // 4 + number) % 2 == 0
    policies = CUTTING_PAIR if stratum[0] == TWO_LAYERS and stratum[2] == "tight" else PAIRS[number % 5 == 4]
    possible = (cell for cell in _draws(stratum, fast, policies) if cell is not None)
    cells = []
    for cell in possible:
        if not gains or cell.gain >= GAIN:
            return cell
        cells.append(cell)
    if not cells:
        raise RuntimeError(f"in {DRAWS} draws no cell of {stratum} could be emulated in time")
    return cells[0]


def _draws(stratum: tuple[str, int, str, str], fast: bool, policies: tuple[str, str]) -> Iterator[Cell | None]:
    """The drawn cells of a stratum; None for one that the host would not hold or that would take too long."""
    drawn = Random("/".join(["emulated", *map(str, stratum)]))
    for _ in range(DRAWS):
        delay, rate = drawn.choice(DELAYS_MS), drawn.choice(RATES_MBPS)
        streaming = FAST_MBPS[stratum[0]] if fast else drawn.choice(STREAMING_MBPS[stratum[0]])
        seed = drawn.randint(1, 1000)
        paces = DILATIONS if fast else (1,)
        tried = (judged(Cell(*stratum, delay, rate, streaming, seed, pace, TOKENS[-1], policies)) for pace in paces)
        yield next((cell for cell in tried if cell is not None), None)


def judged(cell: Cell) -> Cell | None:
    """The cell with predictions and as many tokens as there is time for; None if it is not to be emulated."""
    found = []
    for policy in cell.policies:
        try:
            found.append(foresee(cell.experiment(policy)))
        except Infeasible:
            return None
        if not found[-1].held:
            return None
    first, second = found
    for tokens in TOKENS:
        more = (tokens - cell.tokens) * cell.dilation
        walls = first.wall_s + more * first.token_s, second.wall_s + more * second.token_s
        if max(walls) <= LONGEST_S:
            times = round(1e3 * first.token_s, 3), round(1e3 * second.token_s, 3)
            return replace(cell, tokens=tokens, token_ms=times, wall_s=(round(walls[0], 2), round(walls[1], 2)))
    return None


def _paper_cells() -> Iterator[Cell]:
    for devices in PAPER_DEVICES:
        tried = (
            judged(Cell(PAPER, devices, "loose", "short", 0.1, 1000, 400_000, seed, pace, TOKENS[-1], PAPER_PAIR))
            for seed, pace in itertools.product(range(1, DRAWS + 1), PAPER_DILATIONS)
        )
        held = {cell.seed: cell for cell in reversed([cell for cell in tried if cell is not None])}
        yield from [held[seed] for seed in sorted(held)][:PAPER_SEEDS]


def _repeated(cells: list[Cell]) -> list[Cell]:
    """The same cells; `REPEATED` of them, the shortest of each model and number of devices first, are repeated."""
    shortest = sorted(cells, key=lambda cell: sum(cell.wall_s))
    groups: dict[tuple[str, int], list[Cell]] = {}
    for cell in shortest:
        groups.setdefault((cell.model, cell.devices), []).append(cell)
    turns = [cell for turn in itertools.zip_longest(*groups.values()) for cell in turn if cell is not None]
    chosen = {cell.key for cell in turns[:REPEATED]}
    return [replace(cell, repetitions=REPETITIONS if cell.key in chosen else 1) for cell in cells]
