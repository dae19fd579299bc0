"""How what a user got wrong is refused: in one sentence that can be printed and read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from testbed.errors import ConfigError

LONGEST = 700  # characters


def refusal(call: Callable[[], object], *parts: str, begin: str = "") -> str:
    """Check that a call is refused in a sentence that begins so and has these parts; returns the sentence."""
    with pytest.raises(ConfigError) as caught:
        call()
    told = str(caught.value)
    assert told.startswith(begin) and told.isprintable() and 0 < len(told) < LONGEST, told
    assert all(part in told for part in parts), told
    return told


@contextmanager
def computed_within(seconds: float) -> Iterator[None]:
    """Check that what is in the block computes for less than this, which others on this host do not make longer."""
    begun = time.process_time()
    yield
    assert time.process_time() - begun < seconds
