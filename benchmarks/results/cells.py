"""The grid of the regime map: 3240 cells, each of which is an experiment that anyone can replay.

A cell has a model shape, a number of devices, a link's delay and rate, the devices' streaming rate, loose or tight
memory, a context length and a seed. The project's own generator draws the devices (`topology: {generate: paper}`), so
cells that differ only in network or streaming rate have the same devices up to that factor.
"""

from __future__ import annotations

import itertools
from random import Random
from typing import Any, NamedTuple

from testbed.experiment.schema import Experiment

SHAPES = ("gpt2", "tinyllama-1.1b")
DEVICES = (4, 6, 8)
DELAYS_MS = (0.1, 0.3, 1.0, 3.0, 10.0)  # one-way for each link; the path between two devices has two links
RATES_MBPS = (10, 100, 1000)
STREAMING_GBPS = (4, 17, 60)  # gigabytes per second of the median device
MEMORIES = ("loose", "tight")
CONTEXTS = ("short", "long")
SEEDS = (1, 2, 3)

PROMPT_TOKENS = {("gpt2", "short"): 128, ("gpt2", "long"): 900,
                 ("tinyllama-1.1b", "short"): 128, ("tinyllama-1.1b", "long"): 1900}  # fmt: skip
TOKENS = INTERVAL = 64  # nothing changes in a cell, so there is one decision
LOOSE_TIMES_DEVICES = 4  # times the model for each device with loose memory, so that each can hold it whole
TIGHT = "1.4 x model"
FLOPS_PER_BYTE = 4  # compute follows streaming at this ratio, so memory bandwidth decides: min(B, C * b_w / 2) = B
FFN_SHARDS = 8


class Cell(NamedTuple):
    """One point of the grid."""

    shape: str
    devices: int
    delay_ms: float
    rate_Mbps: int
    streaming_GBps: int
    memory: str
    context: str
    seed: int


GRID = tuple(
    Cell(*values)
    for values in itertools.product(SHAPES, DEVICES, DELAYS_MS, RATES_MBPS, STREAMING_GBPS, MEMORIES, CONTEXTS, SEEDS)
)


def shuffled() -> list[int]:
    """The numbers of all cells in a random order, so that any first part is a fair sample."""
    order = list(range(len(GRID)))
    Random("regimes").shuffle(order)
    return order


def experiment_of(number: int, policy: str = "headroom", **changes: Any) -> dict[str, Any]:
    """The experiment file of a cell as a mapping, with `changes` to its keys."""
    return experiment_with(GRID[number], f"cell-{number:04}", policy) | changes


def experiment_with(cell: Cell, name: str, policy: str) -> dict[str, Any]:
    """An experiment with a cell's devices, network and prompt."""
    times = LOOSE_TIMES_DEVICES * cell.devices
    return {
        "name": name,
        "model": {"preset": cell.shape, "seed": 7},
        "prompt": {"text": prompt_text(PROMPT_TOKENS[cell.shape, cell.context])},
        "tokens": TOKENS,
        "interval": INTERVAL,
        "partition": {"ffn_shards": FFN_SHARDS},
        "topology": {
            "generate": "paper",
            "devices": cell.devices,
            "memory": TIGHT if cell.memory == "tight" else f"{times} x model",
            "streaming": f"{cell.streaming_GBps} GB/s",
            "compute": f"{FLOPS_PER_BYTE * cell.streaming_GBps} GFLOP/s",
            "rate": f"{cell.rate_Mbps} Mbit/s",
            "delay": f"{cell.delay_ms:g} ms",
        },
        "policy": policy,
        "seed": cell.seed,
    }


def prompt_text(length: int) -> str:
    """A prompt with this number of tokens; a token of a preset is a byte."""
    return ("Where do the heads go? " * (length // 23 + 1))[:length]


def load(number: int, policy: str = "headroom", **changes: Any) -> Experiment:
    """The experiment of the cell, with its devices drawn."""
    mapping = experiment_of(number, policy, **changes)
    return Experiment.from_dict(mapping, mapping["name"])
