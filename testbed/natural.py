"""The order in which people expect names: d2 comes before d10."""

from __future__ import annotations

import re
from functools import lru_cache


@lru_cache(maxsize=4096)
def natural(name: str) -> tuple[tuple[bool, int, str], ...]:
    """A sort key in which digits count as numbers."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts)
