"""Small stars of three devices that are alike: as an experiment, and as an observation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from testbed.controller.link_samples import Message
from testbed.experiment.schema import Experiment
from testbed.models.presets import PRESETS
from testbed.placement.blocks import WHOLE
from testbed.placement.observation import DeviceView, LinkView, Observation

DEVICE = {"streaming": "2 GB/s", "compute": "8 GFLOP/s", "memory": "64 MiB", "storage": "90 MB/s"}
BASE: dict[str, Any] = {
    "model": {"preset": "tiny"}, "prompt": "hi", "tokens": 8,
    "topology": {"source": "a", "devices": {name: DEVICE | {"link": {"rate": "20 Mbit/s"}} for name in "abc"}},
}  # fmt: skip


def three_devices(**keys: Any) -> Experiment:
    """The tiny model on a, b and c, with these keys."""
    return Experiment.from_dict(BASE | keys)


def star(links: Mapping[str, LinkView] = {}) -> Observation:
    """The same devices as a policy sees them; links that are not given have 100 Mbit/s and 1 ms."""
    every = {name: LinkView(1e8, 1e8, 1e-3, 1e-3) for name in "abc"} | dict(links)
    devices = tuple(DeviceView(name, 2**28, 1e9, 1e10, 1e8) for name in "abc")
    return Observation(PRESETS["tiny"], WHOLE, "a", devices, every, 4, 0, 64, 8)


def sent(truth: Observation, pair: str, bits: float, at_s: float, offsets: Mapping[str, float] = {}) -> Message:
    """A message over an idle path; each device's clock is off by its offset."""
    path = truth.path(*pair)
    took_s = bits / min(leg.rate_bps for leg in path) + sum(leg.delay_s for leg in path)
    return Message(*pair, bits, at_s + offsets.get(pair[0], 0.0), at_s + took_s + offsets.get(pair[1], 0.0))
