"""A rate, a speed or a memory that fluctuates around the topology's value: a mean-reverting log-normal walk.

Step k multiplies the value by exp(x_k), where x_k = persistence · x_(k-1) + sqrt(1 - persistence²) · spread · n_k and
n_k is standard normal. So every step is log-normal with sigma `spread`. Factors are cut at `least` and `most`. The walk
is a pure function of its parameters and the seed, and calls only `Random.random`. This module knows no topologies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from random import Random
from typing import Any

from testbed.errors import ConfigError
from testbed.strict_yaml import shown
from testbed.traces.generate import MOST_GENERATED
from testbed.traces.lines import option_number
from testbed.traces.model import Trace
from testbed.traces.recording import Change

Nominal = Mapping[str, Mapping[str, float]]  # word in a file (rate, memory, compute) -> quantity -> SI value

DEFAULTS: Mapping[str, float] = {"spread": 0.3, "persistence": 0.7, "step": 8, "least": 0.2, "most": 2.0}
# A budget is an upper limit: other programs can only take memory from it and give it back.
MEMORY_MOST = 1.0


def fluctuation(
    target: str, nominal: Nominal, seed: int, length: float, options: Mapping[str, Any] | None = None
) -> Trace:
    """A walk over `length` tokens of a link's rate, or of a device's `compute` (with its streaming rate) or `memory`.

    Options: quantity (by default the rate of a link and the compute of a device), spread, persistence, step, least,
    most. Raises ConfigError naming the option.
    """
    given = dict(options or {})
    word = given.pop("quantity", next(iter(nominal)) if "rate" in nominal else "compute")
    if not isinstance(word, str) or word not in nominal:
        raise ConfigError(f"quantity {shown(word)} of {target} cannot fluctuate: choose from {', '.join(nominal)}")
    values = dict(DEFAULTS) | ({"most": MEMORY_MOST} if word == "memory" else {})
    for key, value in given.items():
        if key not in values:
            raise ConfigError(f"a fluctuation has no option {shown(key)}: it has quantity, {', '.join(values)}")
        values[key] = option_number(value, f"{key} of a fluctuation", least=0.0)
    _check(values)
    if length / values["step"] > MOST_GENERATED:
        raise ConfigError(f"step of a fluctuation is {values['step']:g}: {length:g} tokens may have {MOST_GENERATED}")
    factors = _walk(values, seed, length)
    return Trace(
        tuple(
            Change(number * values["step"], target, quantity, _rounded(quantity, value * factor))
            for number, factor in enumerate(factors)
            for quantity, value in nominal[word].items()
        ),
        name="fluctuation",
    )


def _walk(values: Mapping[str, float], seed: int, length: float) -> list[float]:
    drawn, persistence = Random(seed), values["persistence"]
    place, factors = 0.0, []
    for number in range(max(1, math.ceil(length / values["step"]))):
        normal = math.sqrt(-2 * math.log(1 - drawn.random())) * math.cos(2 * math.pi * drawn.random())
        fresh = values["spread"] * normal
        place = fresh if number == 0 else persistence * place + math.sqrt(1 - persistence**2) * fresh
        factors.append(min(values["most"], max(values["least"], math.exp(place))))
    return factors


def _rounded(quantity: str, value: float) -> float:
    """The value with four significant digits; a memory in whole bytes."""
    return float(int(value)) if quantity == "memory" else float(f"{value:.4g}")


def _check(values: Mapping[str, float]) -> None:
    if values["step"] <= 0:
        raise ConfigError(f"step of a fluctuation is {values['step']:g}, but it must be above 0")
    if not 0 <= values["persistence"] < 1 or values["spread"] < 0:
        raise ConfigError("persistence of a fluctuation must be from 0 to below 1, and spread not below 0")
    if not 0 < values["least"] <= values["most"]:
        raise ConfigError("least of a fluctuation must be above 0 and at most most")
