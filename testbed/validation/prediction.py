"""Predicts one configuration: a model in a format, on boards with an engine.

Computing is counted by `placement.operation` and timed by `placement.blocks.operation_seconds`, like every block of
this package. Each exchange is one call of the latency function, `placement.latency.half_layer_latency` or, all-to-all,
`placement.all_to_all.half_latency`. No other formula is here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from testbed.device_model import DeviceModel
from testbed.placement.all_to_all import half_latency, spread_latency
from testbed.placement.blocks import operation_seconds
from testbed.placement.latency import Work, half_layer_latency
from testbed.placement.observation import Leg, LinkView, Path
from testbed.placement.operation import cost_of
from testbed.shape import ModelShape
from testbed.validation.assumptions import Assumptions
from testbed.validation.calibration import Calibration, Kernel, Rate
from testbed.validation.engines import Q80_BYTES, Engine, Exchange, Sizes, engine_of, layer_weights, sent_bytes
from testbed.validation.names import Board, Formats, Program, Wire

DEFAULT_THREADS = 4  # of a board whose cores are not known
LONGEST_CONTEXT = 4096  # for which engines set caches aside, where a model has more and the table does not say


@dataclass(frozen=True)
class Configuration:
    """What ran, as far as a row says it."""

    program: Program
    shape: ModelShape
    formats: Formats
    boards: tuple[Board | None, ...]  # the root first
    wire: Wire | None
    threads: int | None
    context: float  # the position of the token
    assumptions: Assumptions

    @property
    def engine(self) -> Engine:
        """The engine that describes the program."""
        return engine_of(self.program)

    @property
    def kernel(self) -> Kernel:
        """The kernel that streams its weights."""
        return Kernel.of(self.program, self.formats.weights)

    @property
    def value_bytes(self) -> float:
        """Bytes of a value in a message."""
        return self.formats.exchange_bytes or Q80_BYTES

    @property
    def kv_bytes(self) -> int:
        """Bytes of a value in a KV cache."""
        return self.formats.kv_bytes or self.engine.kv_bytes

    def threads_of(self, board: Board) -> int:
        """The threads that share an operation on a board."""
        return self.threads or board.cores or DEFAULT_THREADS

    def slowdown(self, board: Board) -> float:
        """How much slower a board is because fewer threads run than it has cores."""
        threads = self.threads_of(board)
        return max(1.0, (board.cores or threads) / threads) ** self.assumptions.threads_power


@dataclass(frozen=True)
class Prediction:
    """One decoded token, in seconds; None where nothing is known of a board."""

    compute_s: float  # the root's, as the engine bills it
    wire_s: float  # bits on links
    software_s: float  # what messages take beside their bits
    rates: tuple[Rate, ...]  # of each node

    @property
    def token_s(self) -> float:
        """The whole token."""
        return self.compute_s + self.wire_s + self.software_s

    @property
    def network_s(self) -> float:
        """What is not computing."""
        return self.wire_s + self.software_s


@dataclass(frozen=True)
class _Node:
    """One node's device model, and its times."""

    name: str
    rate: Rate
    compute_flops: float
    threads: int
    slowdown: float  # because fewer threads run than the board has cores
    config: Configuration

    def seconds(self, weights: float, kv_bytes: float = 0.0, rereads: float = 1.0, logits: bool = False) -> float:
        """Seconds of a product with so many weights, and of reading so much of a cache."""
        name, bits, Bps = self.config.formats.weights, self.config.formats.bits, self.rate.streaming_Bps
        slow = ((name, Bps / self.rate.logits_factor),) if logits else ()
        model = DeviceModel(plain_Bps=Bps, streaming_Bps=slow, kv_rereads=rereads, threads=self.threads)
        return self._timed(model, weights, weights * bits / 8, kv_bytes)

    def attention_alone(self, kv_bytes: float, rereads: float) -> float:
        """Seconds of attending with one thread, while the others wait."""
        model = DeviceModel(kv_rereads=rereads, threads=self.threads, serial_share=1.0)
        return self._timed(model, 0.0, 0.0, kv_bytes)

    def _timed(self, model: DeviceModel, weights: float, weight_bytes: float, kv_bytes: float) -> float:
        name = self.config.formats.weights
        cost = cost_of(model, {name: 2 * weights}, {name: weight_bytes}, kv_bytes)
        return self.slowdown * operation_seconds(*cost.counted, self.compute_flops, self.rate.streaming_Bps)


def predict(config: Configuration, calibration: Calibration) -> Prediction | str:
    """The prediction, or one sentence that says why there is none."""
    engine, n = config.engine, len(config.boards)
    if n > 1 and not engine.distributed:
        return f"{config.program} on {n} devices: no list of its exchanges is known"
    if n > 1 and config.wire is None:
        return "the link has no rate that can be read"
    nodes = []
    for number, board in enumerate(config.boards):
        rate = calibration.rate(board, config.kernel, engine) if board is not None else None
        if board is None or rate is None:
            return f"no single-board row tells how fast {board or 'a device that is not named'} is"
        flops = calibration.compute_flops(board, config.kernel)
        threads, slowdown = config.threads_of(board), config.slowdown(board)
        nodes.append(_Node(f"node{number}", rate, flops, threads, slowdown, config))
    return _predicted(config, nodes)


def _predicted(config: Configuration, nodes: Sequence[_Node]) -> Prediction:
    engine, shape, root = config.engine, config.shape, nodes[0]
    sizes = Sizes.of(shape, len(nodes))
    network = config.wire or Wire(math.inf, 0.0, "default")
    compute = total = without = 0.0
    for exchange in engine.exchanges:
        seconds = [_share(exchange, sizes, config, node) for node in nodes]
        after = _root_attention(config, root) if exchange.attention == "root" else 0.0
        full, bare = (_exchange(exchange, sizes, config, network, seconds, after, hop) for hop in (True, False))
        own = seconds[0] + after
        compute += full if exchange.billed_as_inference else own
        without += bare
        total += full
        if exchange.billed_as_inference:
            without += full - bare
    compute, total, without = (shape.layers * each for each in (compute, total, without))
    logits = shape.vocab * shape.width
    if engine.logits == "root":
        own = root.seconds(logits, logits=True)
        return Prediction(compute + own, without - compute, total - without, tuple(node.rate for node in nodes))
    shares = [node.seconds(logits / len(nodes), logits=True) for node in nodes]
    around = [_around(config, network, shares, hop) for hop in (True, False)]
    compute += shares[0]
    return Prediction(
        compute, without + around[1] - compute, total - without + around[0] - around[1],
        tuple(node.rate for node in nodes),
    )  # fmt: skip


def _share(exchange: Exchange, sizes: Sizes, config: Configuration, node: _Node) -> float:
    """Seconds of a node's part of an exchange."""
    shape, n = config.shape, sizes.n
    elements = exchange.weights(sizes)
    if exchange.name.startswith("FFN") and not shape.gated_ffn:
        elements *= 2 / 3
    if exchange.attention != "nodes":
        return node.seconds(elements / n)
    return node.seconds(elements / n, _cache_bytes(config, config.context) / n, _rereads(config, node, n))


def _cache_bytes(config: Configuration, context: float) -> float:
    """Bytes of one layer's keys and values for so many positions."""
    shape = config.shape
    return 2 * shape.kv_heads * shape.head_dim * config.kv_bytes * context


def _rereads(config: Configuration, node: _Node, nodes: int) -> float:
    """How often a group's cache is read: each thread attends with its query heads one after another.

    Threads that attend with heads of one group at the same time read its cache together.
    """
    if config.assumptions.kv_rereads is not None:
        return config.assumptions.kv_rereads
    heads = config.shape.heads / nodes
    return min(config.shape.queries_per_group, max(1, math.ceil(heads / node.threads)))


def _root_attention(config: Configuration, root: _Node) -> float:
    kv = _cache_bytes(config, config.context)
    if config.engine.attention_threads == 1:
        return root.attention_alone(kv, config.shape.queries_per_group)
    return root.seconds(0.0, kv, _rereads(config, root, 1))


@lru_cache(maxsize=256)
def _links(wire: Wire, nodes: int) -> dict[str, LinkView]:
    return {f"node{number}": LinkView(wire.rate_bps, wire.rate_bps, 0.0, 0.0) for number in range(nodes)}


def _path(wire: Wire, source: str, target: str) -> Path:
    return Leg((source, "up"), wire.rate_bps, 0.0), Leg((target, "down"), wire.rate_bps, 0.0)


def _exchange(
    exchange: Exchange, sizes: Sizes, config: Configuration, wire: Wire, seconds: Sequence[float], after: float,
    hop: bool,
) -> float:  # fmt: skip
    """Seconds of one exchange of one layer; `after` is what the root then computes, `hop` counts messages' times."""
    names = [f"node{number}" for number in range(len(seconds))]
    hop_s = wire.message_s if hop else 0.0
    work = [
        Work(name, each, exchange.to_root(sizes) * config.value_bytes)
        for name, each in zip(names, seconds, strict=True)
    ]
    if config.engine.all_to_all:
        return half_latency(lambda a, b: _path(wire, a, b), hop_s, work, names, [0.0] * len(names))
    x = exchange.to_worker(sizes) * config.value_bytes
    return half_layer_latency(_links(wire, len(names)), hop_s, names[0], names[1:], x, work, names[0], after)


def _around(config: Configuration, wire: Wire, shares: Sequence[float], hop: bool) -> float:
    """Sending the embedding's row to the workers, and gathering slices of the logits at the root."""
    names = [f"node{number}" for number in range(len(shares))]
    hop_s = wire.message_s if hop else 0.0

    def path(source: str, target: str) -> Path:
        return _path(wire, source, target)

    slices = 4 * config.shape.vocab / len(names)
    work = [Work(name, each, slices) for name, each in zip(names, shares, strict=True)]
    spread = spread_latency(path, hop_s, names[0], names[1:], 4 * config.shape.width)
    return spread + half_latency(path, hop_s, work, names[:1], [0.0])


def counted_bytes(config: Configuration) -> tuple[float, float]:
    """(bytes of layers, bytes of logits) that one board streams for a token, as its kernel counts them.

    They are the seconds of the prediction at a rate of one byte per second, so that a rate follows by division.
    """
    board = config.boards[0] or Board("a board")
    threads, slowdown = config.threads_of(board), config.slowdown(board)
    unit = _Node("node0", Rate(1.0, 1.0, "same-board", ""), math.inf, threads, slowdown, config)
    logits = slowdown * config.shape.vocab * config.shape.width * config.formats.bits / 8
    return _predicted(config, [unit]).compute_s - logits, logits


def naive_seconds(config: Configuration, calibration: Calibration) -> float | None:
    """The simplest prediction: all weights at one rate, in equal parts, and no network."""
    weights = config.shape.layers * layer_weights(config.shape) + config.shape.vocab * config.shape.width
    size = weights * config.formats.bits / 8
    board = config.boards[0] if config.boards else None
    own = [
        one for one in calibration.observed
        if (one.board, one.kernel, one.shape.name, one.prompt) == (board, config.kernel, config.shape.name, False)
    ]  # fmt: skip
    if own:
        return own[0].seconds / len(config.boards)
    rate = calibration.rate(board, config.kernel, config.engine) if board is not None else None
    return None if rate is None else size / rate.streaming_Bps / len(config.boards)


def payload_bytes(config: Configuration) -> tuple[float, float]:
    """(bytes that the root sends, bytes that it receives) for one token."""
    return sent_bytes(config.engine, config.shape, len(config.boards), config.value_bytes)


def full_context(shape: ModelShape, engine: Engine) -> int:
    """Positions for which an engine sets its caches aside.

    distributed-llama's converter is told 2048 for Llama 2 and 8192 for Llama 3 (its docs/LLAMA.md). Its later versions
    are started with `--max-seq-len 4096` (its launch.py); llama.cpp and Ollama are taken to do no more.
    """
    if shape.name.startswith("llama-2") and engine.distributed:
        return 2048
    if shape.name.startswith("llama-3-"):
        return 8192
    return min(shape.positions, LONGEST_CONTEXT)


def node_bytes(config: Configuration, root: bool) -> float:
    """Bytes that a node holds: its weights, its part of the caches at full context, and what only the root has."""
    shape, engine, n = config.shape, config.engine, len(config.boards)
    bits = config.formats.bits / 8
    held = shape.layers * layer_weights(shape) * bits / n
    caches = shape.layers * _cache_bytes(config, full_context(shape, engine))
    alone = any(exchange.attention == "root" for exchange in engine.exchanges)
    held += (caches if root else 0.0) if alone else caches / n
    logits = shape.vocab * shape.width * bits
    held += logits / n if engine.logits == "nodes" else logits if root else 0.0
    if root and not (shape.tied_embedding and not engine.distributed):
        held += shape.vocab * shape.width * (engine.embedding_bytes or bits)
    return held


def fits(config: Configuration) -> bool | None:
    """Whether every node can hold its part at full context; None if a board's memory is not known."""
    rooms = [board.ram_bytes if board is not None else None for board in config.boards]
    if not rooms or any(room is None for room in rooms):
        return None
    return all(
        node_bytes(config, number == 0) <= room - config.assumptions.reserve_bytes
        for number, room in enumerate(rooms)
        if room is not None
    )
