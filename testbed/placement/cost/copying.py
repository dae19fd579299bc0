"""What copying blocks while tokens go on costs: its pace, its time, what tokens wait for it, and the stall at its end.

Pieces are small and few, so that a token's message meets one with a known chance, and then waits for half of it. The
emulation copies at this pace, the simulation charges it, and `migration: auto` chooses by it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from testbed.placement.blocks import Block, Placement, payload_bytes, resident_bytes, state_bytes, wire_bytes
from testbed.placement.cost.memory import device_needs
from testbed.placement.cost.model import MIGRATION_HANDSHAKE_S, migration_loads
from testbed.placement.observation import LinkView, Observation
from testbed.wire import OUTAGE_BPS

LINK_SHARE = 0.3  # of each link's rate, for all that is copied over it
PIECE_S = 1.5e-3  # of the slowest link's time for one piece
PIECE_BYTES = (1352, 65536)  # at least one segment less our header; at most what a worker sets memory aside for
PIECES_PER_S = 200.0  # that a worker takes in or sends, at about 0.1 ms of its main thread each

BULK_ROWS_RATIO = 1.09  # bytes on a link for a byte of rows in pieces of a few kB

Moved = tuple[Block, str, str]  # what moves, from which device, and to which


@dataclass(frozen=True)
class CopyPace:
    """How fast one device copies to another, in emulated units."""

    rate_bps: float  # of what is on the link, headers included
    piece_bytes: int  # of payload in one message
    window_bytes: int  # that may be unacknowledged

    @property
    def piece_bits(self) -> float:
        """What a piece puts on a link."""
        return wire_bytes(self.piece_bytes) * 8


Paces = Mapping[tuple[str, str], CopyPace]


def copy_paces(observation: Observation, moves: Iterable[Moved]) -> dict[tuple[str, str], CopyPace]:
    """The pace from each sender to each receiver of blocks that have anything to send."""
    shipped = observation.weights == "shipped"
    pairs = dict.fromkeys(
        (source, target)
        for block, source, target in moves
        if payload_bytes(observation.shape, block, 1, shipped, observation.partition)
    )
    hops = Counter(leg.hop for pair in pairs for leg in observation.path(*pair))
    ends = Counter(device for pair in pairs for device in pair)
    found = {}
    for pair in pairs:
        path = observation.path(*pair)
        slowest_bps = max(OUTAGE_BPS, min(leg.rate_bps for leg in path))
        piece = int(min(max(PIECE_S * slowest_bps / 8, PIECE_BYTES[0]), PIECE_BYTES[1]))
        share_bps = min(LINK_SHARE * max(leg.rate_bps, OUTAGE_BPS) / hops[leg.hop] for leg in path)
        most_bps = PIECES_PER_S * wire_bytes(piece) * 8 / max(ends[device] for device in pair)
        rate_bps = min(share_bps, most_bps)
        round_trip_s = sum(leg.delay_s for leg in path) + sum(leg.delay_s for leg in observation.path(*pair[::-1]))
        found[pair] = CopyPace(rate_bps, piece, 8 * piece + int(rate_bps / 8 * round_trip_s))
    return found


def while_copying(observation: Observation, paces: Paces) -> Observation:
    """The observation in which messages wait for pieces: with the chance that one is on a link, for half of it."""
    if not paces:
        return observation
    waits: dict[tuple[str, str], float] = {}
    for pair, pace in paces.items():
        for leg in observation.path(*pair):
            rate_bps = max(leg.rate_bps, OUTAGE_BPS)
            waits[leg.hop] = waits.get(leg.hop, 0.0) + pace.rate_bps / rate_bps * pace.piece_bits / rate_bps / 2

    def slowed(name: str, link: LinkView) -> LinkView:
        up_s, down_s = waits.get((name, "up"), 0.0), waits.get((name, "down"), 0.0)
        return replace(link, up_delay_s=link.up_delay_s + up_s, down_delay_s=link.down_delay_s + down_s)

    return replace(observation, links={name: slowed(name, link) for name, link in observation.links.items()})


def copy_seconds(observation: Observation, moves: Sequence[Moved], length: int, token_s: float) -> float:
    """Seconds until the copies have caught up with tokens that take `token_s` each; infinite if they never do."""
    shipped, shape = observation.weights == "shipped", observation.shape
    sizes: dict[tuple[str, str], list[int]] = {}
    for block, source, target in moves:
        size = payload_bytes(shape, block, length, shipped, observation.partition)
        sizes.setdefault((source, target), []).append(size)
    rows: Counter[tuple[str, str]] = Counter()
    for block, source, target in moves:
        rows[source, target] += state_bytes(shape, block, 1)
    loads, _ = migration_loads(observation, moves, length)
    seconds = max((load.seconds for load in loads if isinstance(load.where, str)), default=0.0)
    for pair, pace in copy_paces(observation, moves).items():
        payload_Bps = pace.rate_bps / 8 * pace.piece_bytes / wire_bytes(pace.piece_bytes)
        left_Bps = payload_Bps - rows[pair] / token_s
        seconds = max(seconds, sum(sizes[pair]) / left_Bps if left_Bps > 0 else float("inf"))
    return seconds


def copy_stall_s(observation: Observation, moves: Sequence[Moved], rows: int = 1) -> float:
    """Seconds without tokens at the end of copying: the last rows, the longest delay, and two handshakes."""
    carried: dict[tuple[str, str], float] = {}
    delay_s = 0.0
    for block, source, target in moves:
        path = observation.path(source, target)
        delay_s = max(delay_s, sum(leg.delay_s for leg in path))
        for leg in path:
            bits = wire_bytes(state_bytes(observation.shape, block, rows)) * 8
            carried[leg.hop] = carried.get(leg.hop, 0.0) + bits / max(leg.rate_bps, OUTAGE_BPS)
    return max(carried.values(), default=0.0) + delay_s + 2 * MIGRATION_HANDSHAKE_S


def copies_fit(observation: Observation, old: Placement, new: Placement) -> bool:
    """Whether every receiver holds its old and its new blocks together until the interval's last token."""
    length, partition = observation.final_length, observation.partition
    both = device_needs(observation, old, length)
    receiving = set()
    for block, _, target in old.moves_to(new):
        both[target] += resident_bytes(observation.shape, block, length, partition)
        receiving.add(target)
    return all(both[name] <= observation.device(name).available_bytes for name in receiving)
