"""What a policy is shown, and the interface it must have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple, Protocol

from testbed.device_model import PLAIN, DeviceModel
from testbed.placement.blocks import Block, Partition, Placement
from testbed.shape import ModelShape


@dataclass(frozen=True)
class DeviceView:
    """One device as the policy sees it."""

    name: str
    available_bytes: int  # all that our blocks may use, the present ones included
    streaming_Bps: float  # B, memory bandwidth
    compute_flops: float  # C, in FLOP/s
    storage_Bps: float
    model: DeviceModel = field(default=PLAIN, hash=False)  # how formats, caches and threads differ from B and C


@dataclass(frozen=True)
class LinkView:
    """A link as the policy sees it; delays are one-way. "Up" is from a device to the network, "down" the other way."""

    up_bps: float
    down_bps: float
    up_delay_s: float
    down_delay_s: float


class Estimate(NamedTuple):
    """What is known of one quantity by measurement."""

    value: float
    age_s: float  # since it was last seen
    spread: float  # its uncertainty, as a share of the value


Hop = tuple[str, str]  # (link, "up" or "down"): one direction of one link


class Leg(NamedTuple):
    """One direction of one link on a message's path."""

    hop: Hop
    rate_bps: float
    delay_s: float


Path = tuple[Leg, ...]


def path_rate_bps(path: Path) -> float:
    """Bits per second of a long transfer; a medium that it passes twice carries half of its rate."""
    hops = [leg.hop for leg in path]
    return min(leg.rate_bps / hops.count(leg.hop) for leg in path)


@dataclass(frozen=True)
class Observation:
    """Everything a decision may depend on. A device's index in the route plan is its place in `devices`.

    `links` has the links by name. Without `routes` the network is a star: each device has the link of its own name,
    and the path i->j goes up the link of i and down the link of j. Else `routes` has the directed links of the path
    between any two devices.
    """

    shape: ModelShape
    partition: Partition
    source: str
    devices: tuple[DeviceView, ...]
    links: Mapping[str, LinkView] = field(hash=False)
    prompt_tokens: int
    tokens_done: int
    tokens_max: int
    interval: int
    weights: Literal["staged", "shipped"] = "staged"
    hop_overhead_s: float = 0.0  # software time per network hop, calibrated
    routes: Mapping[tuple[str, str], tuple[Hop, ...]] | None = field(default=None, hash=False)
    cost: Literal["schedule", "paper"] = "schedule"  # what times are: the event schedule, or `cost.paper`
    # With `observation: measured`: by (target, quantity) in the words of traces, such as (`link/b`, `up`).
    estimates: Mapping[tuple[str, str], Estimate] | None = field(default=None, compare=False)
    # With `recovery: {method: replicate}`: head -> the device that keeps a replica of its KV cache.
    replicas: Mapping[Block, str] = field(default_factory=dict, compare=False)

    @property
    def length(self) -> int:
        """Sequence length that the interval's first token sees: the prompt, the tokens so far and itself."""
        return self.prompt_tokens + max(self.tokens_done, 0)

    @property
    def interval_tokens(self) -> int:
        """Tokens until the next decision, or until the run's end if that comes first."""
        return max(1, min(self.interval, self.tokens_max - self.tokens_done))

    @property
    def final_length(self) -> int:
        """Sequence length at the interval's last token; the placement must fit at it."""
        return self.length + self.interval_tokens - 1

    def device(self, name: str) -> DeviceView:
        """The view of one device, by name."""
        return self._views[name]

    @cached_property
    def _views(self) -> Mapping[str, DeviceView]:
        return {view.name: view for view in self.devices}

    @cached_property
    def paths(self) -> Mapping[tuple[str, str], Path] | None:
        """The path between any two devices; None for a star, where `path` finds it from the links."""
        if self.routes is None:
            return None
        return {pair: tuple(map(self._leg, route)) for pair, route in self.routes.items()}

    def path(self, source: str, target: str) -> Path:
        """The directed links from one device to another, in order, as they are now."""
        if self.paths is not None:
            return self.paths[source, target]
        return self._leg((source, "up")), self._leg((target, "down"))

    def _leg(self, hop: Hop) -> Leg:
        link = self.links[hop[0]]
        up = hop[1] == "up"
        return Leg(hop, link.up_bps if up else link.down_bps, link.up_delay_s if up else link.down_delay_s)


@dataclass(frozen=True)
class Proof:
    """What a policy has proved of its last decision. A policy that proves anything keeps it in an attribute `last`."""

    bound_s: float  # no placement's interval takes fewer seconds, migration included and the LM head left out
    gap: float  # how much more than the bound the decision costs, as a fraction
    proved: bool  # whether the decision is the optimum


class Policy(Protocol):
    """A placement policy: `reset(seed)` once per run, then `decide` at each boundary.

    `decide(observation, None)` returns the first placement. Later calls get the present placement and return the
    wanted one, which is the same object when nothing should move. A policy may remember past observations and never
    sees the future. It raises `Infeasible` when it finds no placement that fits.
    """

    name: str

    def reset(self, seed: int) -> None:
        """Begin a run. Everything random in the run is drawn from `seed`."""

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """Decide where every block is to be during the coming interval."""
        ...
