"""Policies that have another name than before. The old name still works, and the log says so once."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache

RENAMED: Mapping[str, str] = {"resource-aware": "paper-search"}


def present_name(name: str) -> str:
    """The name that a policy has now."""
    return _told(name) if name in RENAMED else name


@cache
def _told(name: str) -> str:
    logging.getLogger("testbed").warning("Policy %s is now called %s; the old name still works.", name, RENAMED[name])
    return RENAMED[name]
