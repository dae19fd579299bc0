"""Patterns of blocks, such as `head(0,*)`: what an experiment's `placement` is written in."""

from __future__ import annotations

import re
from collections.abc import Mapping

from testbed.errors import ConfigError
from testbed.placement.blocks import Block, blocks_of
from testbed.placement.observation import Observation

_PATTERN = re.compile(
    r"(head)\((\*|\d+),(\*|\d+)\)|(proj)\((\*|\d+)\)|(ffn)\((\*|\d+)(?:,(\*|\d+))?\)|(sum)\((\*|\d+),(\*|attn|ffn)\)"
    r"|(vocab)\((\*|\d+)\)"
)


def is_pattern(text: str) -> bool:
    """Whether a text is a pattern of blocks: `*`, a block's name, or one with `*` for a number."""
    text = text.replace(" ", "")
    return text == "*" or _PATTERN.fullmatch(text) is not None


def check_pattern(pattern: object) -> None:
    """Raise ConfigError unless this is a pattern."""
    if not is_pattern(str(pattern)):
        raise ConfigError(
            f"placement {pattern!r} is not a block pattern: write '*', head(0,*), head(0,3), ffn(*), or with shards "
            "ffn(0,*) and sum(*,ffn)"
        )


def matches(pattern: str, block: Block) -> bool:
    """Whether a pattern means this block: `*`, `head(0,*)`, `ffn(*)` (its shards too), `ffn(2,1)`, `sum(*,ffn)`."""
    text = pattern.replace(" ", "")
    if text == "*":
        return True
    if not is_pattern(text):
        return False
    kind, _, rest = text[:-1].partition("(")
    wanted, actual = rest.split(","), str(block)[:-1].partition("(")[2].split(",")
    if kind != block.kind or len(wanted) > len(actual):
        return False
    return all(want in ("*", have) for want, have in zip(wanted, actual, strict=False))


def expand_patterns(observation: Observation, patterns: Mapping[str, str]) -> dict[Block, str]:
    """The device of every block by block patterns, of which later ones win.

    Raises ConfigError that names an unknown device, a pattern that matches nothing, or a block that is left out.
    """
    known = [view.name for view in observation.devices]
    blocks = blocks_of(observation.shape, observation.partition)
    devices: dict[Block, str] = {}
    for pattern, device in patterns.items():
        if device not in known:
            raise ConfigError(f"placement {pattern!r} names the device {device!r}: known are {', '.join(known)}")
        matched = [block for block in blocks if matches(pattern, block)]
        if not matched:
            raise ConfigError(
                f"placement {pattern!r} matches no block of {observation.shape.name}, which has "
                f"{observation.shape.layers} layers of {observation.shape.kv_heads} heads"
            )
        devices.update(dict.fromkeys(matched, device))
    for block in blocks:
        if block not in devices:
            raise ConfigError(f"placement leaves out {block}: add a pattern that covers it, such as '*'")
    return {block: devices[block] for block in blocks}
