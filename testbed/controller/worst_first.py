"""Lists in the sentences of a verdict: the worst comes first, and only a few are named."""

from __future__ import annotations

from collections.abc import Mapping

from testbed.natural import natural

MOST_TOLD = 4


def worst_first(kind: str, found: Mapping[str, tuple[float, str]]) -> str:
    """`device b 14 %, device a 6 % and 2 more`, from name -> (how bad, what to say); equals in the order of names."""
    order = sorted(found, key=lambda name: (-found[name][0], natural(name)))
    told = ", ".join(f"{kind} {name} {found[name][1]}" for name in order[:MOST_TOLD])
    return told if len(order) <= MOST_TOLD else f"{told} and {len(order) - MOST_TOLD} more"
