"""Control messages about KV caches that are copied while tokens go on."""

from __future__ import annotations

import msgspec

from testbed.transport.message import Message


class StreamOrder(msgspec.Struct, frozen=True):
    """What one device copies to another in the background, and how fast."""

    receiver: str
    blocks: list[str]
    rate_Bps: float  # wire bytes per wall second at most
    chunk_bytes: int  # of a message's payload
    window_bytes: int  # at most so many are unacknowledged
    rows: tuple[int, ...] = ()  # of each block that the receiver has already; empty: none


class Copy(Message, frozen=True):
    """Copy these blocks in the background, and go on with the rows of every token; answered by CaughtUp."""

    epoch: int
    streams: list[StreamOrder]
    shipped: bool  # weights travel too


class Halt(Message, frozen=True):
    """To the source: begin no further token until the next Decode; answered by Halted."""


class Finish(Message, frozen=True):
    """Copy the rows up to `length` as fast as the link allows. Senders answer Sent, receivers Arrived."""

    epoch: int
    length: int


class CaughtUp(Message, frozen=True):
    """All that this device copies has arrived but for the newest row."""

    epoch: int


class WeightsLoaded(Message, frozen=True):
    """All weights that do not travel are here; the answer to a Prepare for blocks that are copied."""

    epoch: int


class Halted(Message, frozen=True):
    """The source has generated so many tokens, and begins no further one."""

    tokens: int


class Keep(Message, frozen=True):
    """Keep replicas of these blocks' caches, (block, owner) in order, and no others; answered by Kept.

    Those for which there is no memory at `until` positions are left out. Rows that are here already stay.
    """

    generation: int
    incoming: list[tuple[str, str]]
    until: int


class Kept(Message, frozen=True):
    """The replicas that are kept, in order, each with the rows that are here."""

    generation: int
    replicas: list[tuple[str, int]]


class Replicate(Message, frozen=True):
    """Copy these blocks' caches in the background, and go on with the rows of every token, until the next commit."""

    generation: int
    streams: list[StreamOrder]


class ReplicasDropped(Message, frozen=True):
    """The device had no more memory for its replicas, and has dropped all."""
