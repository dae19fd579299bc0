"""A link: the rate, delay, jitter and loss of its two directions, and the two nodes that it joins.

This module reads links from topology files and writes them. It does not know which links a shape has, nor how the
kernel shapes a link.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from testbed.errors import ConfigError
from testbed.strict_yaml import refuse_unknown_keys, require_mapping, shown
from testbed.topologies.fields import Parse, exact, parsed, positive, refuse_missing, refuse_mixture
from testbed.units import format_duration, format_rate, parse_duration, parse_fraction, parse_rate

Hop = tuple[str, str]  # (link, "up" or "down"): one direction of one link
UP, DOWN = "up", "down"
LONGEST_WORD = 60
WORD = f"a word of at most {LONGEST_WORD} characters that traces can have in their targets"

LINK_KEYS = (
    "rate", "up", "down", "delay", "delay_up", "delay_down", "jitter", "jitter_up", "jitter_down",
    "loss", "loss_up", "loss_down",
)  # fmt: skip


@dataclass(frozen=True)
class Link:
    """Both directions of a link. Up leads from its first end to its second: from a device towards its switch.

    Delays are one-way. Jitter spreads a packet's delay evenly over delay ± jitter. Loss is a share of the packets.
    """

    up_bps: float
    down_bps: float
    up_delay_s: float
    down_delay_s: float
    up_loss: float = 0.0
    down_loss: float = 0.0
    up_jitter_s: float = 0.0
    down_jitter_s: float = 0.0

    @property
    def needs_netem(self) -> bool:
        """Whether the link loses packets or varies their delay; only the kernel's netem can emulate that."""
        return bool(self.up_loss or self.down_loss or self.up_jitter_s or self.down_jitter_s)


@dataclass(frozen=True)
class Cable:
    """A link with its name and the two nodes that it joins, which are devices or switches."""

    name: str  # traces address it as link/NAME; "" until `names.named` names it after its ends
    ends: tuple[str, str]
    link: Link

    def beyond(self, end: str) -> str:
        """The other end."""
        return self.ends[1] if end == self.ends[0] else self.ends[0]

    def hop_from(self, end: str) -> Hop:
        """The direction of this link that leaves `end`."""
        return (self.name, UP if end == self.ends[0] else DOWN)


def read_link(entry: object, origin: str, where: str) -> Link:
    """The link that a mapping with `LINK_KEYS` describes; raises ConfigError naming the place and the key."""
    fields = require_mapping(entry, origin, where)
    refuse_unknown_keys(fields, LINK_KEYS, origin, where)
    refuse_mixture(fields, "rate", ("up", "down"), origin, where)
    if "rate" not in fields:
        refuse_missing(fields, ("up", "down"), origin, f"{where}.", " (or give rate for both directions)")

    def rate(key: str) -> float:
        key = "rate" if "rate" in fields else key
        return positive(fields[key], parse_rate, origin, f"{where}.{key}")

    delays = _optional(fields, "delay", parse_duration, origin, where)
    losses = _optional(fields, "loss", parse_fraction, origin, where)
    jitters = _optional(fields, "jitter", parse_duration, origin, where)
    link = Link(rate("up"), rate("down"), *delays, *losses, *jitters)
    if link.up_jitter_s > link.up_delay_s or link.down_jitter_s > link.down_delay_s:
        raise ConfigError(f"{origin}: {where} has more jitter than delay, but a packet cannot arrive before it leaves")
    if max(losses) >= 1:
        raise ConfigError(f"{origin}: {where} loses every packet; a link that is down is a trace's rate of 0 bit/s")
    return link


def _optional(fields: Mapping[str, Any], key: str, parse: Parse, origin: str, where: str) -> tuple[float, float]:
    """(up, down) of an optional quantity, which is zero by default."""
    up, down = f"{key}_up", f"{key}_down"
    refuse_mixture(fields, key, (up, down), origin, where)
    if (up in fields) != (down in fields):
        refuse_missing(fields, (up, down), origin, f"{where}.", f" (or give {key} for both directions)")
    given = [name for name in (key, up, down) if name in fields]
    values = {name: parsed(fields[name], parse, origin, f"{where}.{name}") for name in given}
    both = values.get(key, 0.0)
    return values.get(up, both), values.get(down, both)


def is_word(name: object) -> bool:
    """Whether the name can stand in a trace's target and in a CSV file as it is."""
    short = isinstance(name, str) and 0 < len(name) <= LONGEST_WORD
    return short and str(name).isprintable() and not any(letter.isspace() or letter in ",/\"'#" for letter in str(name))


def read_listed(entry: object, nodes: list[str], default: Link | None, origin: str, where: str) -> Cable:
    """The link that an entry of `links` describes: one without values takes those of `default`; "" is no name."""
    fields = require_mapping(entry, origin, where)
    refuse_unknown_keys(fields, ("ends", "name", *LINK_KEYS), origin, where)
    ends = fields.pop("ends", None)
    two = isinstance(ends, list) and len(ends) == 2 and all(isinstance(end, str) and end in nodes for end in ends)
    if not two or ends[0] == ends[1]:
        raise ConfigError(f"{origin}: {where}.ends is {shown(ends)}, but it must be two of the devices, like [a, b]")
    own = fields.pop("name") if (given := "name" in fields) else ""
    if given and not is_word(own):
        raise ConfigError(f"{origin}: {where}.name is {shown(own)}, but it must be {WORD}")
    return Cable(own, (ends[0], ends[1]), default if default and not fields else read_link(fields, origin, where))


def link_entry(link: Link) -> dict[str, Any]:
    """The form of a link in a file, with exact values; jitter and loss only if the link has any."""
    entry = {
        "up": exact(link.up_bps, format_rate, parse_rate, "bit/s"),
        "down": exact(link.down_bps, format_rate, parse_rate, "bit/s"),
        "delay_up": exact(link.up_delay_s, format_duration, parse_duration, "s"),
        "delay_down": exact(link.down_delay_s, format_duration, parse_duration, "s"),
    }
    if link.up_jitter_s or link.down_jitter_s:
        entry["jitter_up"] = exact(link.up_jitter_s, format_duration, parse_duration, "s")
        entry["jitter_down"] = exact(link.down_jitter_s, format_duration, parse_duration, "s")
    if link.up_loss or link.down_loss:
        entry |= {"loss_up": repr(link.up_loss), "loss_down": repr(link.down_loss)}
    return entry


def medium_entry(link: Link) -> dict[str, Any]:
    """The form of a shared medium in a file, which is alike in both directions."""
    both = {"up": "rate", "delay_up": "delay", "jitter_up": "jitter", "loss_up": "loss"}
    return {both[key]: value for key, value in link_entry(link).items() if key in both}


def cable_entry(cable: Cable) -> dict[str, Any]:
    """The form of a link in the list `links` of a file."""
    name = {} if cable.name == "-".join(cable.ends) else {"name": cable.name}
    return {"ends": list(cable.ends)} | name | link_entry(cable.link)
