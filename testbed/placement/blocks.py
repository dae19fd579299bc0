"""Blocks, the units of placement, and what each one weighs, reads and computes.

Notation: D width, d head size, r query heads per KV group, F FFN width, V vocabulary, t sequence length. Norms, biases
and position tables are counted. Sizes are whole memory pages, because a worker maps whole pages: `resident_bytes` is
what the device's ledger will show. `docs/cost-model.md` has the table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

from testbed.errors import ConfigError
from testbed.formats import packed_bytes
from testbed.shape import ModelShape
from testbed.wire import SEGMENT_HEADER_BYTES, SEGMENT_PAYLOAD_BYTES

PAGE_BYTES = 4096  # the kernel's page; huge pages are switched off for block memory
TENSOR_ALIGNMENT = 64  # bytes of a cache line: tensors inside one block's map begin on one

Kind = Literal["head", "proj", "ffn", "sum", "vocab"]
Exchange = Literal["hub", "all-to-all"]
ATTENTION, FFN = 0, 1  # the halves of a layer, and the indices of the blocks that add up a half's partial sums
_AFTER_ALL_LAYERS = 1 << 30
_HALF_NAMES = ("attn", "ffn")
MOST_BLOCKS = 2**15  # of one model; GPT-3's 96 layers of 96 heads, with 64 shards for each FFN, make half as many
_BLOCK = re.compile(r"(head|proj|ffn|sum|vocab)\((\d+)(?:,(\d+|attn|ffn))?\)")


@dataclass(frozen=True)
class Partition:
    """How the model is cut. It is the same for every policy and for the reference of one experiment.

    With `ffn_shards` over 1, each FFN is cut into that many column shards, whose partial sums meet at `sum(l,ffn)`.
    With `proj_rows`, each head carries its rows of proj(l), and the partial sums meet at `sum(l,attn)`. With
    `vocab_shards` over 1, the LM head is cut into that many blocks of rows, `vocab(k)`, and is no part of the source.
    With `exchange` all-to-all no sum is a block: every device has a copy of each sum and adds up for itself.
    """

    ffn_shards: int = 1  # a power of two that divides F
    proj_rows: bool = False
    vocab_shards: int = 1  # at most V
    exchange: Exchange = "hub"  # all-to-all needs shards and rows of proj, so that every half ends in partial sums

    @property
    def hub(self) -> bool:
        """Whether the results of a half meet at one device."""
        return self.exchange == "hub"


WHOLE = Partition()


@dataclass(frozen=True)
class Block:
    """One unit of placement: `head(l,g)`, `proj(l)`, `ffn(l)` or its shard `ffn(l,k)`, `sum(l,attn)`, `sum(l,ffn)`.

    `vocab(k)`, a shard of the LM head, belongs to no layer and comes after all of them.
    """

    kind: Kind
    layer: int
    index: int = 0  # KV group of a head, number of a shard, half of a sum; else 0
    part: bool = field(default=False, compare=False)  # a shard and not the whole FFN; only its name differs

    def __str__(self) -> str:
        if self.kind == "vocab":
            return f"vocab({self.index})"
        if self.kind == "sum":
            return f"sum({self.layer},{_HALF_NAMES[self.index]})"
        if self.kind == "head" or self.part or self.index:
            return f"{self.kind}({self.layer},{self.index})"
        return f"{self.kind}({self.layer})"

    def __lt__(self, other: Block) -> bool:
        return self.sort_key < other.sort_key

    @property
    def sort_key(self) -> tuple[int, int, int]:
        """By layer, and within it as a token meets the blocks: heads, proj or sum, FFN, sum."""
        if self.kind == "vocab":
            return (_AFTER_ALL_LAYERS, 0, self.index)
        step = 1 + 2 * self.index if self.kind == "sum" else {"head": 0, "proj": 1, "ffn": 2}[self.kind]
        return (self.layer, step, self.index)


def _sort_key(block: Block) -> tuple[int, int, int]:
    return block.sort_key


@lru_cache(maxsize=16384)
def parse_block(text: str) -> Block:
    """The block named e.g. `head(3,7)`, `ffn(0)` or `sum(2,attn)`; raises ConfigError."""
    match = _BLOCK.fullmatch(text.replace(" ", ""))
    kind, layer, index = match.groups() if match else ("", "", None)
    halves = index in _HALF_NAMES
    alone = index is None
    right = {"head": not alone and not halves, "proj": alone, "ffn": not halves, "sum": halves, "vocab": alone}
    if match is None or not right[kind]:
        raise ConfigError(
            f"{text!r} is not a block: write head(layer,index), proj(layer), ffn(layer), ffn(layer,index), "
            "sum(layer,attn), sum(layer,ffn) or vocab(index)"
        )
    if kind == "vocab":
        return Block("vocab", 0, int(layer))
    number = _HALF_NAMES.index(str(index)) if halves else int(index or 0)
    return Block(kind, int(layer), number, part=kind == "ffn" and index is not None)  # type: ignore[arg-type]


@lru_cache(maxsize=64)
def layer_blocks(shape: ModelShape, partition: Partition, layer: int) -> tuple[Block, ...]:
    """The blocks of one layer in the order a token meets them."""
    found = [Block("head", layer, group) for group in range(shape.kv_heads)]
    if not partition.hub:
        return (*found, *_shards(partition, layer))
    found.append(Block("sum", layer, ATTENTION) if partition.proj_rows else Block("proj", layer))
    if partition.ffn_shards == 1:
        return (*found, Block("ffn", layer))
    return (*found, *_shards(partition, layer), Block("sum", layer, FFN))


def _shards(partition: Partition, layer: int) -> list[Block]:
    return [Block("ffn", layer, shard, part=True) for shard in range(partition.ffn_shards)]


@lru_cache(maxsize=64)
def copies_of(shape: ModelShape, partition: Partition) -> tuple[Block, ...]:
    """The blocks that every device has a copy of: the sums with an all-to-all exchange, else none."""
    if partition.hub:
        return ()
    return tuple(Block("sum", layer, half) for layer in range(shape.layers) for half in (ATTENTION, FFN))


@lru_cache(maxsize=64)
def blocks_of(shape: ModelShape, partition: Partition = WHOLE) -> tuple[Block, ...]:
    """Every placeable block of the model, in the order a token meets them."""
    found = [block for layer in range(shape.layers) for block in layer_blocks(shape, partition, layer)]
    if partition.vocab_shards > 1:
        found += [Block("vocab", 0, shard) for shard in range(partition.vocab_shards)]
    return tuple(found)


def count_blocks(shape: ModelShape, partition: Partition = WHOLE) -> int:
    """At least the number of blocks that `blocks_of` has, without making any."""
    shards = partition.ffn_shards + (1 if partition.ffn_shards > 1 else 0)
    return shape.layers * (shape.kv_heads + 1 + shards) + partition.vocab_shards


def vocab_rows(shape: ModelShape, partition: Partition) -> int:
    """Rows of the LM head in each of its shards. The last shard is filled up with rows of zeros."""
    return -(-shape.vocab // partition.vocab_shards)


@dataclass(frozen=True)
class Placement:
    """The device of every block. `epoch` grows by one with each change that is committed."""

    devices: Mapping[Block, str] = field(hash=False)
    epoch: int = 0

    def on(self, device: str) -> list[Block]:
        """The blocks on one device, in the order a token meets them."""
        return sorted((block for block, where in self.devices.items() if where == device), key=_sort_key)

    def moves_to(self, other: Placement) -> list[tuple[Block, str, str]]:
        """(block, from, to) for each block that differs in `other`, in block order."""
        return [
            (block, self.devices[block], other.devices[block])
            for block in sorted(
                (block for block, where in self.devices.items() if other.devices[block] != where), key=_sort_key
            )
        ]

    def with_moves(self, moves: Iterable[tuple[Block, str]], epoch: int | None = None) -> Placement:
        """A copy with some blocks on other devices."""
        return replace(self, devices={**self.devices, **dict(moves)}, epoch=self.epoch if epoch is None else epoch)


# --- what a block is made of ---------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def tensors_of(shape: ModelShape, kind: str, partition: Partition = WHOLE) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Names and shapes of the weight tensors of a block of this kind, or of `embed`, which stays at the source.

    Matrices are (out, in). The worker allocates exactly these tensors, so the bytes counted here are the bytes in
    memory. A sum has the bias that is added once, after the partial sums.
    """
    D, d, r = shape.width, shape.head_dim, shape.queries_per_group
    V, K = shape.vocab, partition.ffn_shards
    F = shape.ffn_width // K
    norm = [("norm_weight", (D,))] + ([("norm_bias", (D,))] if shape.norm_bias else [])
    found: list[tuple[str, tuple[int, ...]]]
    if kind == "head":
        found = [*norm, ("qkv_weight", ((r + 2) * d, D))]
        found += [("qkv_bias", ((r + 2) * d,))] if shape.qkv_bias else []
        found += [("q_norm", (d,)), ("k_norm", (d,))] if shape.qk_norm else []
        found += [("proj_weight", (D, r * d))] if partition.proj_rows else []
    elif kind == "proj":
        found = [("weight", (D, shape.heads * d))] + ([("bias", (D,))] if shape.proj_bias else [])
    elif kind == "ffn":
        inner = 2 * F if shape.gated_ffn else F  # the gate's rows, then those that it gates
        found = [*norm, ("in_weight", (inner, D))] + ([("in_bias", (inner,))] if shape.ffn_bias else [])
        found += [("out_weight", (D, F))] + ([("out_bias", (D,))] if shape.ffn_bias and K == 1 else [])
    elif kind == "sum":
        found = [("bias", (D,))] if shape.proj_bias or shape.ffn_bias else []  # zeros in the half that has none
    elif kind == "embed":
        found = [*norm, ("tokens", (V, D))]
        found += [("positions", (shape.positions, D))] if shape.learned_positions else []
        found += [] if shape.tied_embedding or partition.vocab_shards > 1 else [("lm_head", (V, D))]
    elif kind == "vocab":
        found = [("rows", (vocab_rows(shape, partition), D))]
    else:
        raise ValueError(f"no such kind of block: {kind}")
    return tuple(found)


def rows_and_columns(dims: tuple[int, ...]) -> tuple[int, int]:
    """A tensor's rows and columns; norms and biases are one row."""
    return (1, dims[0]) if len(dims) == 1 else (dims[0], dims[1])


def _tensor_bytes(shape: ModelShape, kind: str, partition: Partition) -> list[int]:
    return [
        packed_bytes(shape.format_of(kind, name), *rows_and_columns(dims))
        for name, dims in tensors_of(shape, kind, partition)
    ]


def _round_up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


@lru_cache(maxsize=4096)
def weight_bytes(shape: ModelShape, kind: str, partition: Partition = WHOLE) -> int:
    """Bytes of weights of a block of this kind, in whole pages. `embed` stands for what stays at the source."""
    sizes = _tensor_bytes(shape, kind, partition)
    return _round_up(sum(_round_up(size, TENSOR_ALIGNMENT) for size in sizes), PAGE_BYTES)


@lru_cache(maxsize=4096)
def _weight_payload(shape: ModelShape, kind: str, partition: Partition) -> int:
    return sum(_tensor_bytes(shape, kind, partition))


def state_bytes(shape: ModelShape, block: Block, length: int) -> int:
    """Payload bytes of the block's KV cache at sequence length `length`: 2·d·t·b_kv for a head, else 0."""
    return 2 * shape.head_dim * length * shape.kv_bytes if block.kind == "head" else 0


def payload_bytes(
    shape: ModelShape, block: Block, length: int, with_weights: bool, partition: Partition = WHOLE
) -> int:
    """Bytes that are sent when the block migrates at `length`: its KV cache, and its weights if they are shipped."""
    weights = _weight_payload(shape, block.kind, partition) if with_weights else 0
    return weights + state_bytes(shape, block, length)


def resident_bytes(shape: ModelShape, block: Block, length: int, partition: Partition = WHOLE) -> int:
    """Bytes a device's ledger shows for this block at sequence length `length`: weights and KV, in whole pages."""
    pages = 0
    if block.kind == "head":
        pages = replica_bytes(shape, length)
    return weight_bytes(shape, block.kind, partition) + pages


def replica_bytes(shape: ModelShape, length: int) -> int:
    """Bytes of a replica of one head's KV cache at sequence length `length`, in whole pages."""
    return 2 * _round_up(shape.head_dim * length * shape.kv_bytes, PAGE_BYTES)


def copied_bytes(shape: ModelShape, partition: Partition) -> int:
    """Bytes of `copies_of` on each device: with an all-to-all exchange a page or more for each bias, else 0."""
    return len(copies_of(shape, partition)) * weight_bytes(shape, "sum", partition)


def pinned_bytes(shape: ModelShape, partition: Partition = WHOLE) -> int:
    """Bytes of embedding, positions, final norm and LM head, which stay at the source."""
    return weight_bytes(shape, "embed", partition)


# --- what a block does for `rows` new tokens that end at sequence length `length` ------------------------


def block_flops(shape: ModelShape, block: Block, length: int, rows: int = 1, partition: Partition = WHOLE) -> float:
    """FLOPs for `rows` new tokens, the last one seeing `length` positions (a multiply-accumulate is 2).

    Biases, norms and the addition of partial sums are not counted, except for a sum, which does nothing else: there
    the bias and the residual count D each.
    """
    D, d, r, F = shape.width, shape.head_dim, shape.queries_per_group, shape.ffn_width
    if block.kind == "head":
        seen = rows * length - rows * (rows - 1) / 2  # causal: row i of the chunk sees length-rows+1+i
        if _seen(shape, length) < length:
            seen = float(sum(_seen(shape, at) for at in range(length - rows + 1, length + 1)))
        own_rows_of_proj = 2.0 * r * d * D * rows if partition.proj_rows else 0.0
        return 2.0 * D * (r + 2) * d * rows + 4.0 * r * d * seen + own_rows_of_proj
    if block.kind == "proj":
        return 2.0 * shape.heads * d * D * rows
    if block.kind == "sum":
        return 2.0 * D * rows
    if block.kind == "vocab":
        return 2.0 * vocab_rows(shape, partition) * D  # for the last row only
    return 2.0 * (3 if shape.gated_ffn else 2) * D * (F // partition.ffn_shards) * rows


def block_read_bytes(shape: ModelShape, block: Block, length: int, partition: Partition = WHOLE) -> float:
    """Bytes streamed from memory for one chunk of tokens: the weights once, and what is seen of the KV cache."""
    return float(_weight_payload(shape, block.kind, partition) + seen_state_bytes(shape, block, length))


def seen_state_bytes(shape: ModelShape, block: Block, length: int) -> int:
    """Bytes of the block's KV cache that the last of `length` tokens sees."""
    return state_bytes(shape, block, _seen(shape, length))


def weight_bytes_by_format(shape: ModelShape, kind: str, partition: Partition = WHOLE) -> dict[str, float]:
    """The bytes of a block's weights by the format that they have in memory."""
    found: dict[str, float] = {}
    sizes = _tensor_bytes(shape, kind, partition)
    for (name, _), size in zip(tensors_of(shape, kind, partition), sizes, strict=True):
        its_format = shape.format_of(kind, name)
        found[its_format] = found.get(its_format, 0.0) + size
    return found


def read_bytes_by_format(
    shape: ModelShape, block: Block, length: int, partition: Partition = WHOLE
) -> dict[str, float]:
    """The bytes of `block_read_bytes` by the format that they have in memory."""
    found = weight_bytes_by_format(shape, block.kind, partition)
    state = seen_state_bytes(shape, block, length)
    if state:
        found[shape.kv_format] = found.get(shape.kv_format, 0.0) + state
    return found


def _seen(shape: ModelShape, length: int) -> int:
    """The positions that the last of `length` tokens sees; a window counts only if all layers have it."""
    return length if shape.window is None or shape.window_from else min(length, shape.window)


def embed_read_bytes(shape: ModelShape, rows: int = 1) -> float:
    """Bytes the source reads to embed `rows` tokens."""
    tables = [shape.weights.tokens, *([shape.weights.positions] if shape.learned_positions else [])]
    return float(sum(packed_bytes(name, rows, shape.width) for name in tables))


def lm_head_flops(shape: ModelShape) -> float:
    """FLOPs of the LM head for one token: 2·V·D."""
    return 2.0 * shape.vocab * shape.width


def lm_head_read_bytes(shape: ModelShape) -> float:
    """Bytes of the LM head read for one token."""
    return float(packed_bytes(shape.format_of("vocab", "rows"), shape.vocab, shape.width))


def operation_seconds(
    flops: float, read_bytes: float, compute_flops: float, streaming_Bps: float, barrier_s: float = 0.0
) -> float:
    """The device model: an operation takes max(FLOPs/C, bytes/B) seconds, and the time of a barrier.

    FLOPs and bytes are those that the device's model counts (`operation.Cost`).
    """
    return max(flops / compute_flops, read_bytes / streaming_Bps) + barrier_s


# --- what travels ----------------------------------------------------------------------------------------

MESSAGE_HEADER_BYTES = 96  # our msgpack header and ZeroMQ's framing, measured; tested in tests/unit


def wire_bytes(payload: float) -> float:
    """Bytes on the link for one message with this payload, all headers included."""
    message = payload + MESSAGE_HEADER_BYTES
    segments = -(-message // SEGMENT_PAYLOAD_BYTES)
    return message + segments * SEGMENT_HEADER_BYTES
