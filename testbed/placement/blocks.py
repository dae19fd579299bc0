"""Blocks, the units of placement, and what each one weighs, reads and computes.

Notation: D width, d head size, r query heads per KV group, F FFN width, V vocabulary, t sequence length.
The table is DESIGN §7's; norms, biases and position tables are counted. Sizes are whole memory pages,
because that is how a worker maps them: `resident_bytes` is what the device's ledger will show.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

from testbed.errors import ConfigError
from testbed.shape import ModelShape

PAGE_BYTES = 4096  # what the kernel hands out; huge pages are switched off for block memory
TENSOR_ALIGNMENT = 64  # bytes; tensors inside one block's map start on cache lines

Kind = Literal["head", "proj", "ffn"]
_KIND_ORDER = {"head": 0, "proj": 1, "ffn": 2}
_BLOCK = re.compile(r"(head|proj|ffn)\((\d+)(?:,(\d+))?\)")


@dataclass(frozen=True)
class Partition:
    """How the model is cut; the same for every policy and for the reference of one experiment."""

    ffn_shards: int = 1


@dataclass(frozen=True)
class Block:
    """One unit of placement: `head(l,g)`, `proj(l)` or `ffn(l)`."""

    kind: Kind
    layer: int
    index: int = 0  # KV group for heads, else 0

    def __str__(self) -> str:
        return f"head({self.layer},{self.index})" if self.kind == "head" else f"{self.kind}({self.layer})"

    def __lt__(self, other: Block) -> bool:
        return self.sort_key < other.sort_key

    @property
    def sort_key(self) -> tuple[int, int, int]:
        """Layer, then heads before proj before ffn, then index: the order a token meets them."""
        return (self.layer, _KIND_ORDER[self.kind], self.index)


def parse_block(text: str) -> Block:
    """The block named e.g. `head(3,7)` or `ffn(0)`; raises ConfigError."""
    match = _BLOCK.fullmatch(text.replace(" ", ""))
    if match is None or (match.group(1) == "head") != (match.group(3) is not None):
        raise ConfigError(f"{text!r} is not a block: write head(layer,index), proj(layer) or ffn(layer)")
    return Block(match.group(1), int(match.group(2)), int(match.group(3) or 0))  # type: ignore[arg-type]


@lru_cache(maxsize=64)
def blocks_of(shape: ModelShape, partition: Partition = Partition()) -> tuple[Block, ...]:
    """Every placeable block of the model, in the order a token meets them."""
    found: list[Block] = []
    for layer in range(shape.layers):
        found += [Block("head", layer, group) for group in range(shape.kv_heads)]
        found += [Block("proj", layer), Block("ffn", layer)]
    return tuple(found)


@dataclass(frozen=True)
class Placement:
    """Where every block is. `epoch` grows by one at each change that is committed."""

    devices: Mapping[Block, str] = field(hash=False)
    epoch: int = 0

    def on(self, device: str) -> list[Block]:
        """The blocks on one device, in the order a token meets them."""
        return sorted(block for block, where in self.devices.items() if where == device)

    def moves_to(self, other: Placement) -> list[tuple[Block, str, str]]:
        """(block, from, to) for each block that differs in `other`, in block order."""
        return [
            (block, self.devices[block], other.devices[block])
            for block in sorted(self.devices)
            if self.devices[block] != other.devices[block]
        ]

    def with_moves(self, moves: Iterable[tuple[Block, str]], epoch: int | None = None) -> Placement:
        """A copy with some blocks elsewhere."""
        return replace(self, devices={**self.devices, **dict(moves)}, epoch=self.epoch if epoch is None else epoch)


# --- what a block is made of ---------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def tensors_of(shape: ModelShape, kind: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Names and shapes of the weight tensors of a block of this kind, or of the pinned `embed`.

    The worker allocates exactly these, so weight bytes here and in memory cannot drift apart.
    """
    D, d, r = shape.width, shape.head_dim, shape.queries_per_group
    F, V = shape.ffn_width, shape.vocab
    norm = [("norm_weight", (D,))] + ([("norm_bias", (D,))] if shape.biases else [])
    found: list[tuple[str, tuple[int, ...]]]
    if kind == "head":
        found = [*norm, ("qkv_weight", (D, (r + 2) * d))]
        found += [("qkv_bias", ((r + 2) * d,))] if shape.biases else []
    elif kind == "proj":
        found = [("weight", (shape.heads * d, D))] + ([("bias", (D,))] if shape.biases else [])
    elif kind == "ffn":
        inner = 2 * F if shape.gated_ffn else F
        found = [*norm, ("in_weight", (D, inner)), ("out_weight", (F, D))]
        found += [("in_bias", (inner,)), ("out_bias", (D,))] if shape.biases else []
    elif kind == "embed":
        found = [*norm, ("tokens", (V, D))]
        found += [("positions", (shape.positions, D))] if shape.learned_positions else []
        found += [] if shape.tied_embedding else [("lm_head", (V, D))]
    else:
        raise ValueError(f"no such kind of block: {kind}")
    return tuple(found)


def _elements(dims: tuple[int, ...]) -> int:
    count = 1
    for dim in dims:
        count *= dim
    return count


def _round_up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


@lru_cache(maxsize=4096)
def weight_bytes(shape: ModelShape, kind: str) -> int:
    """Bytes of weights a block of this kind keeps resident, in whole pages. `embed` is the source's share."""
    sizes = (_elements(dims) * shape.weight_bytes for _, dims in tensors_of(shape, kind))
    return _round_up(sum(_round_up(size, TENSOR_ALIGNMENT) for size in sizes), PAGE_BYTES)


def state_bytes(shape: ModelShape, block: Block, length: int) -> int:
    """Payload bytes of the block's KV cache at sequence length `length`: 2·d·t·b_kv for a head, else 0."""
    return 2 * shape.head_dim * length * shape.kv_bytes if block.kind == "head" else 0


def payload_bytes(shape: ModelShape, block: Block, length: int, with_weights: bool) -> int:
    """Bytes that travel when the block migrates at length `length`: its KV cache, and its weights if shipped."""
    elements = sum(_elements(dims) for _, dims in tensors_of(shape, block.kind)) if with_weights else 0
    return elements * shape.weight_bytes + state_bytes(shape, block, length)


def resident_bytes(shape: ModelShape, block: Block, length: int) -> int:
    """Bytes a device's ledger shows for this block at sequence length `length`: weights + whole KV pages."""
    pages = 0
    if block.kind == "head":
        pages = 2 * _round_up(shape.head_dim * length * shape.kv_bytes, PAGE_BYTES)
    return weight_bytes(shape, block.kind) + pages


def pinned_bytes(shape: ModelShape) -> int:
    """Bytes of embedding, positions, final norm and LM head, which stay at the source."""
    return weight_bytes(shape, "embed")


# --- what a block does for `rows` new tokens that end at sequence length `length` ------------------------


def block_flops(shape: ModelShape, block: Block, length: int, rows: int = 1) -> float:
    """FLOPs for `rows` new tokens, the last one seeing `length` positions (a multiply-accumulate is 2)."""
    D, d, r, F = shape.width, shape.head_dim, shape.queries_per_group, shape.ffn_width
    if block.kind == "head":
        seen = rows * length - rows * (rows - 1) / 2  # causal: row i of the chunk sees length-rows+1+i
        return 2.0 * D * (r + 2) * d * rows + 4.0 * r * d * seen
    if block.kind == "proj":
        return 2.0 * shape.heads * d * D * rows
    return 2.0 * (3 if shape.gated_ffn else 2) * D * F * rows


def block_read_bytes(shape: ModelShape, block: Block, length: int) -> float:
    """Bytes streamed from memory: the weights once per chunk, and the KV cache."""
    elements = sum(_elements(dims) for _, dims in tensors_of(shape, block.kind))
    return float(elements * shape.weight_bytes + state_bytes(shape, block, length))


def embed_read_bytes(shape: ModelShape, rows: int = 1) -> float:
    """Bytes the source reads to embed `rows` tokens."""
    return float(rows * shape.width * shape.weight_bytes * (2 if shape.learned_positions else 1))


def lm_head_flops(shape: ModelShape) -> float:
    """FLOPs of the LM head for one token: 2·V·D."""
    return 2.0 * shape.vocab * shape.width


def lm_head_read_bytes(shape: ModelShape) -> float:
    """Bytes of the LM head read for one token."""
    return float(shape.vocab * shape.width * shape.weight_bytes)


def operation_seconds(flops: float, read_bytes: float, compute_flops: float, streaming_Bps: float) -> float:
    """The device model: an operation takes max(FLOPs/C, bytes/B) seconds."""
    return max(flops / compute_flops, read_bytes / streaming_Bps)


# --- what travels ----------------------------------------------------------------------------------------

MESSAGE_HEADER_BYTES = 96  # our msgpack header and ZeroMQ's framing, measured; tested in tests/unit
SEGMENT_PAYLOAD_BYTES = 1448  # MTU 1500 less IP, TCP and its timestamp option
SEGMENT_HEADER_BYTES = 66  # Ethernet 14, IP 20, TCP 32


def wire_bytes(payload: float) -> float:
    """Bytes on the link for one message with this payload, all headers included."""
    message = payload + MESSAGE_HEADER_BYTES
    segments = -(-message // SEGMENT_PAYLOAD_BYTES)
    return message + segments * SEGMENT_HEADER_BYTES
