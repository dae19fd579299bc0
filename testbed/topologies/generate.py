"""Draws topologies from a seed: devices with log-normal memory and speeds, in a star, in two tiers or in a mesh.

A drawn topology has the form of a topology file. The ranges come from the configurations of the simulator that
accompanies arXiv 2505.02533 (github.com/Dimitrios-Kafetzis/DistributedTransformerInferenceSimulator,
`experiments/configs`): memory and compute are log-normal with sigma 0.5, compute lies within 10-100 GFLOP/s, and links
between edge devices carry 0.1-1 Gbit/s. That simulator has no memory bandwidth, delay or storage. We take 4 GB/s (a
Raspberry Pi 4), 0.2-1 ms (a wired home) and 90 MB/s (an SD card). A seed gives the same topology on every machine,
because the generator calls only `Random.random` and rounds values to four digits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

from testbed.errors import ConfigError
from testbed.strict_yaml import refuse_unknown_keys, shown, suggest
from testbed.topologies.fields import Parse, positive, refuse_missing, rounded
from testbed.topologies.shapes import MOST_DEVICES, RANDOM, bounds_of
from testbed.units import parse_bandwidth, parse_bytes, parse_compute, parse_duration, parse_rate

KINDS = {
    "paper": "a star of log-normal devices, as in arXiv 2505.02533",
    "two-tier": "the same devices in clusters around switches, joined by a backhaul",
    "mesh": "the same devices as a random connected mesh",
}
SHAPE_OF = {"paper": "star", "two-tier": "two-tier", "mesh": RANDOM}
DEFAULTS: Mapping[str, Any] = {
    "memory": "1.4 x model",
    "compute": "30 GFLOP/s",
    "streaming": "4 GB/s",
    "storage": "90 MB/s",
    "spread": 0.5,
    "rate": ["100 Mbit/s", "1 Gbit/s"],
    "delay": ["0.2 ms", "1 ms"],
    "seed": 0,
}
OF_KIND: Mapping[str, Mapping[str, Any]] = {
    "paper": {},
    "two-tier": {"clusters": 2, "backhaul": {"rate": "100 Mbit/s", "delay": "2 ms"}},
    "mesh": {"degree": 3},
}
DRAWS = 1000  # draws before the generator gives up
DRAWN_DEVICES = 3000  # devices in all draws together, because checking a draw with many devices takes longer
FEWEST_DRAWS = 25
FURTHEST = 4.0  # a drawn value lies between median / FURTHEST and median * FURTHEST
_TIMES_MODEL = re.compile(r"\s*(\d+\.?\d*|\.\d+)\s*x\s*model\s*")


@dataclass(frozen=True)
class ModelNeed:
    """The memory that a model needs at its longest sequence, and a check whether its blocks fit into given budgets."""

    pinned_bytes: int  # on the source, in addition to its blocks
    blocks_bytes: int  # all blocks with their caches
    fits: Callable[[Sequence[int]], bool]


def settings_of(kind: object, given: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """The settings of a generator: the given ones and, for the rest, its defaults.

    Raises ConfigError for an unknown key or a value out of range.
    """
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(f"{origin}: generate is {shown(kind)}, which is no topology generator{suggest(kind, KINDS)}")
    defaults = {**DEFAULTS, **OF_KIND[kind]}
    refuse_unknown_keys(given, ("devices", *defaults), origin, f"generate: {kind}")
    refuse_missing(given, ("devices",), origin, "")
    settings = {**defaults, **given}
    for key in ("rate", "delay"):  # one value for all links
        settings[key] = settings[key] if isinstance(settings[key], list) else [settings[key]] * 2
    least = {"devices": 1, "seed": 0, "clusters": 2}
    for key, low in least.items():
        value = settings.get(key, low)
        if type(value) is not int or value < low:
            raise ConfigError(f"{origin}: {key} is {shown(value)}, but it must be a whole number of at least {low}")
    most = MOST_DEVICES[SHAPE_OF[kind]]
    if settings["devices"] > most:
        raise ConfigError(f"{origin}: devices is {shown(settings['devices'])}, but {kind} draws at most {most}")
    clusters = settings.get("clusters", 0)
    if clusters > settings["devices"]:
        raise ConfigError(
            f"{origin}: clusters is {shown(clusters)}, but devices is {settings['devices']}, and every cluster needs "
            "a device"
        )
    spread = settings["spread"]
    if type(spread) not in (int, float) or not 0 <= spread <= 2:
        raise ConfigError(f"{origin}: spread is {shown(spread)}, but sigma of the log-normal must be from 0 to 2")
    return settings


def generate_topology(
    kind: object, given: Mapping[str, Any], seed: int, need: ModelNeed, origin: str = "topology"
) -> dict[str, Any]:
    """One topology in the form of a topology file; `seed` and the settings' own `seed` determine it.

    Draws until the model's blocks fit into the devices; raises ConfigError if they never do.
    """
    settings = settings_of(kind, given, origin)
    assert isinstance(kind, str)
    names = [f"d{number + 1}" for number in range(settings["devices"])]
    draws = max(FEWEST_DRAWS, min(DRAWS, DRAWN_DEVICES // len(names)))
    for attempt in range(draws):
        drawn = Random(f"topology/{kind}/{seed}/{settings['seed']}/{attempt}")
        rooms = _rooms(settings, len(names), need, drawn, origin)
        if need.fits(rooms):
            return _form(kind, settings, names, rooms, need, drawn, origin)
    raise ConfigError(
        f"{origin}: in {draws} draws of {len(names)} devices with memory {settings['memory']} the model's blocks never "
        "fitted: give more memory, fewer tokens, a smaller spread or more ffn_shards"
    )


def _rooms(settings: Mapping[str, Any], count: int, need: ModelNeed, drawn: Random, origin: str) -> list[int]:
    """Bytes for blocks on each device, log-normal: shares of a multiple of the model, or values around a median."""
    factors = [lognormal(drawn, settings["spread"]) for _ in range(count)]
    times = _TIMES_MODEL.fullmatch(str(settings["memory"]))
    if times is None:
        what = "memory (a size, two bounds, or like '1.4 x model')"
        around = _around(settings["memory"], parse_bytes, origin, what)
        rooms = [round(around.times(factor)) for factor in factors]
        return [rooms[0] - need.pinned_bytes, *rooms[1:]]
    total = float(times.group(1)) * need.blocks_bytes
    return [round(total * factor / sum(factors)) for factor in factors]


def _form(
    kind: str, settings: Mapping[str, Any], names: list[str], rooms: list[int], need: ModelNeed, drawn: Random,
    origin: str,
) -> dict[str, Any]:  # fmt: skip
    devices: dict[str, dict[str, Any]] = {}  # the first is the source
    medians = {
        "streaming": (_around(settings["streaming"], parse_bandwidth, origin, "streaming"), "B/s"),
        "compute": (_around(settings["compute"], parse_compute, origin, "compute"), "FLOP/s"),
        "storage": (_around(settings["storage"], parse_bandwidth, origin, "storage"), "B/s"),
    }
    for number, (name, room) in enumerate(zip(names, rooms, strict=True)):
        entry = {
            key: f"{rounded(around.times(1.0 if key == 'storage' else lognormal(drawn, settings['spread'])))} {unit}"
            for key, (around, unit) in medians.items()
        }
        devices[name] = entry | {"memory": f"{room + (0 if number else need.pinned_bytes)} B"}
    form = {"name": f"{kind}-{len(names)}", "source": names[0], "devices": devices}
    if kind == "mesh":
        graph = {key: settings[key] for key in ("degree", "rate", "delay")} | {"seed": int(drawn.random() * 2**31)}
        return form | {"shape": "random", "links": graph}
    rates = bounds_of(settings["rate"], parse_rate, origin, "rate", "[100 Mbit/s, 1 Gbit/s]")
    delays = bounds_of(settings["delay"], parse_duration, origin, "delay", "[0.2 ms, 1 ms]")
    for device in devices.values():
        rate, delay = (rounded(low + (high - low) * drawn.random()) for low, high in (rates, delays))
        device["link"] = {"rate": f"{rate} bit/s", "delay": f"{delay} s"}
    if kind == "paper":
        return form | {"shape": "star"}
    groups = {f"c{number + 1}": names[number :: settings["clusters"]] for number in range(settings["clusters"])}
    return form | {"shape": "two-tier", "clusters": groups, "backhaul": settings["backhaul"]}


class _Around(NamedTuple):
    """A median, and the bounds at which values around it are cut."""

    median: float
    low: float = 0.0
    high: float = math.inf

    def times(self, factor: float) -> float:
        """A value around the median."""
        return min(self.high, max(self.low, self.median * factor))


def _around(entry: object, parse: Parse, origin: str, where: str) -> _Around:
    """What values are drawn around: one value, or the geometric mean of two bounds that also cut them."""
    if not isinstance(entry, list):
        return _Around(positive(entry, parse, origin, where))
    if len(entry) != 2:
        raise ConfigError(f"{origin}: {where} is {shown(entry)}, but it must be one value or two bounds")
    low, high = (positive(bound, parse, origin, where) for bound in entry)
    if low > high:
        raise ConfigError(f"{origin}: {where} is {shown(entry)}, but the lower bound must come first")
    return _Around(math.sqrt(low * high), low, high)


def lognormal(drawn: Random, sigma: float) -> float:
    """A log-normal factor with median 1 (by the Box-Muller transform), cut at `FURTHEST` and 1 / `FURTHEST`."""
    normal = math.sqrt(-2 * math.log(1 - drawn.random())) * math.cos(2 * math.pi * drawn.random())
    return min(FURTHEST, max(1 / FURTHEST, math.exp(sigma * normal)))
