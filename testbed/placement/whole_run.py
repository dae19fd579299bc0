"""What a whole run takes at least when its observations are known beforehand: the optimum, or a bound on it.

It is the yardstick of `testbed compare`: the seconds of all decode tokens and migrations, the LM head included, as a
simulated run counts them. The bound lets every interval have its cheapest placement and every migration be free. Under
`cost: paper` the optimum is found too, where few placements can be part of it: with the best run known so far, a
placement can be left out of an interval if it costs more there than all that the other intervals could save.

A policy that finds no placement after a decrease of memory may go on with too much until the decrease is enforced, and
then be under the bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from testbed.placement.array_types import Floats, Ints
from testbed.placement.cost.memory import Infeasible
from testbed.placement.exact.limits import OFFLINE_PAIRS
from testbed.placement.exact.one_layer import OneLayer, States
from testbed.placement.latency import cost_seconds
from testbed.placement.observation import Observation
from testbed.placement.operation import lm_head_cost
from testbed.placement.policies.exact import Exact

LIMIT_S = 5.0  # wall seconds for the bound of one interval
CLOSE = 1e-9  # relative distance of the least and the best run at which they are the same


@dataclass(frozen=True)
class Least:
    """The seconds that a run takes at least, and those of the best run that is known."""

    seconds: float
    best_s: float

    @property
    def proved(self) -> bool:
        """Whether a run takes no more; else the optimum is between the two."""
        return self.best_s <= self.seconds * (1 + CLOSE)


def least_run(observations: Sequence[Observation], known_s: float = math.inf, seed: int = 0) -> Least:
    """What the decode tokens and migrations of a run take at least, given the observations at its boundaries.

    `known_s` is what some run takes that keeps to the observed memory. Raises ConfigError where policy `exact` does.
    """
    if observations[0].cost == "paper":
        return _of_one_layer(observations, known_s)
    total = 0.0
    for seen in observations:
        lengths = decoded_lengths(seen)
        if lengths:
            total += len(lengths) * _token_bound_s(seen, sum(lengths) // len(lengths), seed)
    return Least(total, known_s)


def decoded_lengths(seen: Observation) -> tuple[int, ...]:
    """The sequence lengths of an interval's decode tokens; the run's first token is the prefill's."""
    return tuple(range(seen.length + (seen.tokens_done == 0), seen.final_length + 1))


def _token_bound_s(seen: Observation, length: int, seed: int) -> float:
    """Seconds that a token of this length takes at least.

    Latency is convex in the length and grows with it, so the mean of an interval's tokens is not less than its value at
    their mean length, rounded down.
    """
    policy = Exact(limit=LIMIT_S)
    policy.reset(seed)
    try:
        policy.decide(replace(seen, tokens_done=length - seen.prompt_tokens, interval=1), None)
    except Infeasible:
        return math.inf
    assert policy.last is not None
    source = seen.device(seen.source)
    return policy.last.bound_s + cost_seconds(lm_head_cost(seen.shape, source.model), source)


# --- under `cost: paper` -----------------------------------------------------------------------------------------


def _of_one_layer(observations: Sequence[Observation], known_s: float) -> Least:
    layers = [OneLayer(seen) for seen in observations if decoded_lengths(seen)]
    if not layers:
        return Least(0.0, 0.0)
    least: list[float] = []
    cheapest: list[States] = []
    staying: Floats | None = None
    for layer in layers:
        seconds = _table(layer)
        least.append(float(seconds.min()))
        cheapest.append(_states(layer, seconds, np.array([seconds.argmin()])))
        staying = seconds if staying is None else staying + seconds
    bound = sum(least)
    if not math.isfinite(bound):
        return Least(math.inf, math.inf)
    assert staying is not None
    some = _joined([*cheapest, _states(layers[0], staying, np.array([staying.argmin()]))])
    best = min(known_s, _cheapest_run(layers, [some] * len(layers)))
    near: list[States] = []
    pairs = 0
    for layer, lowest in zip(layers, least, strict=True):
        seconds = _table(layer)
        near.append(_states(layer, seconds, np.flatnonzero(seconds <= lowest + best - bound)))
        pairs += len(near[-1]) * len(near[-2]) if len(near) > 1 else 0
        if not math.isfinite(best) or pairs > OFFLINE_PAIRS:
            return Least(bound, best)
    best = min(best, _cheapest_run(layers, near))
    return Least(best, best)


def _table(layer: OneLayer) -> Floats:
    """Seconds of an interval's tokens for every placement: (devices of proj and FFN, vectors of counts)."""
    return np.array([seconds for _, _, seconds in layer.tokens_s(decoded_lengths(layer.observation))])


def _states(layer: OneLayer, table: Floats, flat: Ints) -> States:
    """The placements at some places of a table, counted row by row."""
    pair, row = np.unravel_index(flat, table.shape)
    return States(layer.counts[row], pair // layer.devices, pair % layer.devices)


def _joined(parts: Sequence[States]) -> States:
    """All states of some lists, each once."""
    rows = np.unique(
        np.hstack(
            [
                np.vstack([part.counts for part in parts]),
                np.concatenate([part.proj for part in parts])[:, None],
                np.concatenate([part.ffn for part in parts])[:, None],
            ]
        ),
        axis=0,
    )
    return States(rows[:, :-2], rows[:, -2], rows[:, -1])


def _cheapest_run(layers: Sequence[OneLayer], allowed: Sequence[States]) -> float:
    """Seconds of the cheapest run whose placements are among those allowed in each interval: a dynamic programme."""
    value = _costs(layers[0], allowed[0])
    for layer, before, now in zip(layers[1:], allowed, allowed[1:], strict=False):
        reached = np.empty(len(now))
        for row in range(len(now)):
            one = now.take(np.array([row]))
            reached[row] = (value + layer.moving_s(before, one)).min()
        value = reached + _costs(layer, now)
    return float(value.min())


def _costs(layer: OneLayer, states: States) -> Floats:
    """Seconds of an interval's tokens for some placements; inf where they do not fit."""
    return layer.costs(states, decoded_lengths(layer.observation))
