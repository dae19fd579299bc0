"""How what a user got wrong is refused: in one sentence that can be printed and read."""

from __future__ import annotations

from collections.abc import Callable

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
