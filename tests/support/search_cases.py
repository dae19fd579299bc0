"""Instances for the search behind `headroom`, and its pieces set up for a test."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np

from testbed.placement.annealing.problem import Problem, make_problem
from testbed.placement.annealing.state import CAP, INTERVAL, OVERFULL, WEIGHTS, State, judged, load, new_state
from testbed.placement.annealing.tuning import OVERFULL_WEIGHT
from testbed.placement.array_types import Floats, Ints
from testbed.placement.blocks import Partition, blocks_of, pinned_bytes, resident_bytes
from testbed.placement.cost.memory import nothing_fits
from testbed.placement.cost.model import cost_model
from testbed.placement.observation import DeviceView, LinkView, Observation
from testbed.shape import ModelShape


def instance(seed: int, layers: int, heads: int, devices: int, tight: float, shards: int = 1) -> Observation:
    """Log-normal memory (`tight` times the model in all), compute and links; one that something fits."""
    rng = np.random.default_rng([seed, layers, heads, devices, shards])
    shape = ModelShape("instance", layers, heads * 64, heads, heads, 64, heads * 256, 5000, 1024)
    partition = Partition(ffn_shards=shards)
    names = [f"d{n}" for n in range(devices)]
    whole = sum(resident_bytes(shape, block, 160, partition) for block in blocks_of(shape, partition))
    streaming, up, down = (rng.lognormal(np.log(mean), 0.5, devices) for mean in (4e9, 1e8, 1e8))
    delay = rng.lognormal(np.log(5e-4), 0.5, devices)
    links = {name: LinkView(*map(float, (up[n], down[n], delay[n], delay[n]))) for n, name in enumerate(names)}
    while True:
        memory = rng.lognormal(0, 0.5, devices)
        memory *= whole * tight / memory.sum()
        memory[0] += pinned_bytes(shape, partition)
        views = [DeviceView(name, int(memory[n]), float(streaming[n]), 1e10, 9e7) for n, name in enumerate(names)]
        found = Observation(shape, partition, "d0", tuple(views), links, 64, 0, 96, 8, "staged", 2e-4)
        if nothing_fits(found, 160) is None:
            return found


def vectors(units: int, devices: int) -> list[tuple[int, ...]]:
    """Every vector of counts per device that adds up to `units`."""
    return [counts for counts in product(range(units + 1), repeat=devices) if sum(counts) == units]


class Searched(NamedTuple):
    """A first placement ready to be searched."""

    problem: Problem
    state: State
    weights: Floats

    def judge(self, places: Ints) -> float:
        """The objective of some places."""
        load(self.problem, self.state, places, False)
        return float(judged(self.problem, self.state, self.weights))

    def price_from(self, places: Ints) -> None:
        """Set the price of overfilling as the search does, by what an interval costs at these places."""
        self.judge(places)
        price = OVERFULL_WEIGHT * self.state.figures[INTERVAL] / self.problem.sizes[0].max()
        self.weights[OVERFULL] = max(self.weights[OVERFULL], price)


def searched(observation: Observation, seed: int) -> Searched:
    """The first placement of an instance, to be searched with some seed, overfilling still being free."""
    model = cost_model(observation)
    problem = make_problem(model, None, model)
    weights = np.zeros(WEIGHTS)
    weights[CAP] = np.inf
    return Searched(problem, new_state(problem, seed), weights)
