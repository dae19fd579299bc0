"""The base of all control messages."""

from __future__ import annotations

import msgspec


class Message(msgspec.Struct, frozen=True, tag=True):
    """A control message; the tag is the class name."""
