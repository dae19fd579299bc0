"""What a placement costs: token latency, prefill latency, migration delay and an interval's sum of them.

Every latency here is a sum of half-layers: of `half_layer_latency` or, with an all-to-all exchange, of `half_latency`.
`CostModel` is one observation, with rates looked up and half-layers remembered. The functions below it are the plain
interface. Searches use compiled copies (`cost.kernel`, `annealing.state`), which tests compare with this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from testbed.placement.all_to_all import half_latency, spread_latency
from testbed.placement.blocks import (
    ATTENTION,
    FFN,
    Block,
    Placement,
    payload_bytes,
)
from testbed.placement.cost import paper
from testbed.placement.latency import (
    STALLED_RATE,
    Work,
    block_times,
    cost_seconds,
    half_layer_latency,
    transfer_seconds,
)
from testbed.placement.observation import Hop, Leg, Observation, Path
from testbed.placement.operation import embed_cost, lm_head_cost
from testbed.placement.plan import (
    VOCAB,
    HalfKind,
    HalfPlan,
    Plan,
    choice_payload,
    halves_of,
    make_plan,
    partial_payload,
    result_payload,
    send_order,
    work_payload,
    x_payload,
)
from testbed.placement.tree import aligned_roots
from testbed.wire import OUTAGE_BPS, SEGMENT_HEADER_BYTES, SEGMENT_PAYLOAD_BYTES

# Prepare, ready, commit and release travel out of band over local sockets: four messages of about a millisecond
# each on a busy two-core host. An estimate; a run's migrations log shows the measured time beside it.
MIGRATION_HANDSHAKE_S = 0.004
# A migration's chunks fill their segments, so only the segments' headers come on top.
BULK_WIRE_RATIO = (SEGMENT_PAYLOAD_BYTES + SEGMENT_HEADER_BYTES) / SEGMENT_PAYLOAD_BYTES

Counts = tuple[int, ...]  # by device index
_HalfKey = tuple[int, int, Counts, Counts | None]  # holder, target, heads or shards, roots


class CostModel:
    """One observation whose devices are indices, and whose half-layers are remembered by what they depend on.

    `tokens` is the interval's number of tokens. The heads of a layer are alike, and so are the shards of an FFN. So a
    half-layer depends on the holder, the target (the device where results meet) and the number of heads or shards on
    each device. Where results are partial sums it also depends on the number of roots that each device sends. Unless
    that is given, it is taken to be that of aligned leaves (`tree.align`).
    """

    def __init__(self, observation: Observation) -> None:
        self.observation = observation
        self.shape = observation.shape
        self.partition = observation.partition
        self.names = tuple(view.name for view in observation.devices)
        self.index = {name: number for number, name in enumerate(self.names)}
        self.source = self.index[observation.source]
        self.tokens = observation.interval_tokens
        self.lengths = (observation.length, observation.final_length)
        self.halves = halves_of(observation.partition)
        self._seconds: dict[tuple[str, int, int], tuple[float, ...]] = {}
        self._half: tuple[dict[_HalfKey, float], dict[_HalfKey, float]] = ({}, {})
        self._vocab: dict[Counts, float] = {}
        self._exchanged: dict[tuple[int, Counts, Counts, Counts, Counts | None], float] = {}
        self._tails: dict[tuple[str, int, int, float, int], float] = {}

    def seconds(self, kind: str, length: int, rows: int = 1) -> tuple[float, ...]:
        """Seconds of one block of a kind on each device, in index order."""
        key = (kind, length if kind == "head" else 0, rows)
        found = self._seconds.get(key)
        if found is None:
            block = Block(kind, 0)  # type: ignore[arg-type]
            times = paper.compute_seconds if self.observation.cost == "paper" else block_times
            found = times(self.shape, block, self.observation.devices, length, rows, self.partition)
            self._seconds[key] = found
        return found

    def attention_seconds(self, plan: Plan, layer: int, length: int, rows: int = 1) -> float:
        """Seconds of a planned attention half."""
        return self._planned(self.halves[ATTENTION], plan.holder(layer), plan.layers[layer].attention, length, rows)

    def ffn_seconds(self, plan: Plan, layer: int, rows: int = 1) -> float:
        """Seconds of a planned FFN half, at any length."""
        planned = plan.layers[layer]
        return self._planned(self.halves[FFN], planned.attention.target, planned.ffn, self.lengths[0], rows)

    def _planned(self, kind: HalfKind, holder: str, half: HalfPlan, length: int, rows: int) -> float:
        work: list[Work] = []
        if kind.work is not None:
            each = self.seconds(kind.work, length, rows)
            work = [
                Work(device, each[self.index[device]] * len(parts), work_payload(self.shape, kind, parts, rows))
                for device, parts in half.work.items()
            ]
        if kind.work != "vocab" and not self.partition.hub:
            return self._together(half, work, length, rows)
        seconds = 0.0
        if kind.target is not None:
            seconds = self.seconds(kind.target, length, rows)[self.index[half.target]]
        return self._half_layer(holder, half.x_order, x_payload(self.shape, rows), work, half.target, seconds)

    def _half_layer(
        self, holder: str, x_order: Sequence[str], x: float, work: Sequence[Work], target: str, seconds: float
    ) -> float:
        seen = self.observation
        if seen.cost == "paper":
            return paper.half_seconds(seen, holder, x, work, target, seconds)
        return half_layer_latency(
            seen.links, seen.hop_overhead_s, holder, x_order, x, work, target, seconds, seen.paths
        )

    def _together(self, half: HalfPlan, work: Sequence[Work], length: int, rows: int = 1) -> float:
        """A half with an all-to-all exchange, and before it the messages that bring x to devices without it."""
        hop_s, x = self.observation.hop_overhead_s, x_payload(self.shape, rows)
        adding = self.seconds("sum", length, rows)
        payloads = {item.device: item.payload_bytes for item in work}
        spread = spread_latency(lambda a, b: self.path(a, b, x), hop_s, half.target, half.x_order, x)
        sums = [adding[self.index[target]] for target in half.targets]
        return spread + half_latency(lambda a, b: self.path(a, b, payloads[a]), hop_s, work, half.targets, sums)

    def all_to_all(
        self, half: int, counts: Counts, others: Counts, starts: Counts = (), roots: Counts | None = None
    ) -> float:
        """Seconds of a half whose results the source and `others` add up for themselves, as a mean over the interval.

        `starts` has the devices to which the source sends x first; only the first half of all has any.
        """
        key = (half, counts, others, starts, roots)
        found = self._exchanged.get(key)
        if found is None:
            found = self._exchanged[key] = self._mean_together(*key)
        return found

    def _mean_together(self, half: int, counts: Counts, others: Counts, starts: Counts, roots: Counts | None) -> float:
        kind, names = self.halves[half], self.names
        held = [(device, count) for device, count in enumerate(counts) if count]
        planned = HalfPlan(
            {}, names[self.source], tuple(names[device] for device in starts), tuple(names[device] for device in others)
        )
        assert kind.work is not None
        lengths = self.lengths if kind.work == "head" else self.lengths[:1]
        total = 0.0
        for length in lengths:
            each = self.seconds(kind.work, length)
            work = [
                Work(
                    names[device],
                    each[device] * count,
                    self.result_payload(kind, count, roots[device] if roots else None),
                )
                for device, count in held
            ]
            total += self._together(planned, work, length)
        return total / len(lengths)

    def attention(self, holder: int, target: int, counts: Counts, roots: Counts | None = None) -> float:
        """Seconds of the attention half with `counts` heads per device, as the mean of first and last token."""
        return self._remembered(ATTENTION, holder, target, counts, roots)

    def ffn(self, holder: int, target: int, counts: Counts = (), roots: Counts | None = None) -> float:
        """Seconds of the FFN half with `counts` shards per device; without counts the FFN is whole, on `target`."""
        return self._remembered(FFN, holder, target, counts, roots)

    def vocab(self, counts: Counts) -> float:
        """Seconds of the LM head with `counts` of its shards per device, from the source and back to it."""
        found = self._vocab.get(counts)
        if found is None:
            found = self._vocab[counts] = self._mean(VOCAB, self.source, self.source, counts, None)
        return found

    def _remembered(self, half: int, holder: int, target: int, counts: Counts, roots: Counts | None) -> float:
        key = (holder, target, counts, roots)
        found = self._half[half].get(key)
        if found is None:
            found = self._half[half][key] = self._mean(self.halves[half], holder, target, counts, roots)
        return found

    def _mean(self, kind: HalfKind, holder: int, target: int, counts: Counts, roots: Counts | None) -> float:
        names, work_kind = self.names, kind.work
        if work_kind is None:
            counts = ()
        held = [(device, count) for device, count in enumerate(counts) if count]
        payloads = [self.result_payload(kind, count, roots[device] if roots else None) for device, count in held]
        tails = [
            (names[device], self._tail(kind, device, count, payload, target))
            for (device, count), payload in zip(held, payloads, strict=True)
        ]
        order = send_order(names[holder], names[target], tails)
        x, last = x_payload(self.shape), names[target]
        total = 0.0
        lengths = self.lengths if work_kind == "head" else self.lengths[:1]  # an FFN does not depend on it
        for length in lengths:
            each = self.seconds(work_kind, length) if work_kind is not None else ()
            work = [
                Work(names[device], each[device] * n, payload)
                for (device, n), payload in zip(held, payloads, strict=True)
            ]
            seconds = self.seconds(kind.target, length)[target] if kind.target is not None else 0.0
            total += self._half_layer(names[holder], order, x, work, last, seconds)
        return total / len(lengths)

    def result_payload(self, kind: HalfKind, count: int, roots: int | None = None) -> float:
        """Bytes of one device's result: of `count` units, or of so many roots; without `roots`, of aligned leaves."""
        if kind.work == "vocab":
            return choice_payload(count)
        if not kind.partial:
            return result_payload(self.shape, count)
        return partial_payload(self.shape, aligned_roots(count) if roots is None else roots)

    def _tail(self, kind: HalfKind, device: int, count: int, payload: float, target: int) -> float:
        assert kind.work is not None
        key = (kind.work, device, count, payload, target)
        found = self._tails.get(key)
        if found is None:
            found = self.seconds(kind.work, self.lengths[0])[device] * count
            if device != target:
                found += self.transfer(device, target, payload)
            self._tails[key] = found
        return found

    def transfer(self, source: int, target: int, payload: float) -> float:
        """Seconds of one message between two devices, while the network is idle otherwise."""
        seen, pair = self.observation, (self.names[source], self.names[target])
        if seen.cost == "paper":
            return paper.transfer(seen, *pair, payload)
        return transfer_seconds(self.path(*pair, payload), payload, seen.hop_overhead_s)

    def path(self, source: str, target: str, payload: float) -> Path:
        """The path of a message; a model whose messages meet delays of their own gives each another one."""
        return self.observation.path(source, target)

    def source_seconds(self, last: int, rows: int = 1, lm_head: bool = True) -> float:
        """Seconds of what the source does around the layers: embedding, and the LM head if it is whole.

        They include the return of the last x to the source from `last`, the device where the last layer ends. The
        paper's formula has nothing around the layer.
        """
        if self.observation.cost == "paper":
            return 0.0
        view, shape = self.observation.devices[self.source], self.shape
        total = cost_seconds(embed_cost(shape, rows, view.model), view)
        if last != self.source:
            total += self.transfer(last, self.source, x_payload(shape))
        if lm_head and self.partition.vocab_shards == 1:
            total += cost_seconds(lm_head_cost(shape, view.model), view)
        return total

    def step_seconds(self, plan: Plan, length: int, rows: int, lm_head: bool, around: bool) -> float:
        """Seconds of `rows` tokens through all layers, with or without the source's own work around them."""
        total = 0.0
        for layer in range(len(plan.layers)):
            total += self.attention_seconds(plan, layer, length, rows) + self.ffn_seconds(plan, layer, rows)
        return total + self.around_seconds(plan, rows, lm_head) if around else total

    def around_seconds(self, plan: Plan, rows: int = 1, lm_head: bool = True) -> float:
        """Seconds of the source's own work around the layers, and of the LM head where it is cut."""
        total = self.source_seconds(self.index[plan.holder(len(plan.layers))], rows, lm_head)
        if lm_head and plan.vocab is not None:
            total += self._planned(VOCAB, plan.source, plan.vocab, self.lengths[0], 1)
        return total


@lru_cache(maxsize=16)
def cost_model(observation: Observation) -> CostModel:
    """The cost model of an observation, which is kept because observations do not change."""
    return CostModel(observation)


def as_plan(observation: Observation, placement: Placement | Plan) -> Plan:
    """The plan for a placement under this observation; a plan stays as it is."""
    return placement if isinstance(placement, Plan) else make_plan(observation, placement)


def token_latency(observation: Observation, placement: Placement | Plan, length: int, lm_head: bool = True) -> float:
    """Seconds for one decoded token that sees `length` positions: the sum of its half-layers.

    With `lm_head` it includes what the source does around them: embedding, the return of the last x to the source, and
    the LM head. Without it, models of different vocabularies can be compared.
    """
    return cost_model(observation).step_seconds(as_plan(observation, placement), length, 1, True, lm_head)


def chunk_rows(prompt_tokens: int, chunk: int) -> tuple[int, ...]:
    """Rows of each prefill chunk: full chunks first, then the rest."""
    full, rest = divmod(prompt_tokens, chunk)
    return (chunk,) * full + ((rest,) if rest else ())


def prefill_latency(
    observation: Observation, placement: Placement | Plan, chunks: int | Sequence[int], model: CostModel | None = None,
    start: int = 0, lm_head: bool = True,
) -> float:  # fmt: skip
    """Seconds from the prompt to the first token: the chunks pass through all layers one after another.

    `chunks` is the chunk size in tokens, or the rows of each chunk. A chunk ends when its last row is at the source.
    Only the last one runs the LM head, if any. `model` is another cost model. Caches have the rows up to `start`.
    """
    model, plan = model or cost_model(observation), as_plan(observation, placement)
    rows = chunk_rows(observation.prompt_tokens, chunks) if isinstance(chunks, int) else tuple(chunks)
    total, length = 0.0, start
    for number, count in enumerate(rows):
        length += count
        total += model.step_seconds(plan, length, count, lm_head and number == len(rows) - 1, True)
    return total


# --- moving --------------------------------------------------------------------------------------------------


def cached_length(observation: Observation) -> int:
    """Positions that KV caches hold at this decision: none before prefill, then all but the next token's."""
    return observation.length - 1 if observation.tokens_done > 0 else 0


def moved_bytes(observation: Observation, block: Block, length: int) -> tuple[int, int]:
    """(bytes over the network, bytes loaded from the receiver's storage) when `block` moves at `length`."""
    shipped = observation.weights == "shipped"
    shape, partition = observation.shape, observation.partition
    weights = payload_bytes(shape, block, 0, True, partition)
    return payload_bytes(shape, block, length, shipped, partition), 0 if shipped else weights


class Load(NamedTuple):
    """What a migration asks of one direction of one link, or of one device's storage."""

    where: Hop | str  # a link's direction, or the device whose storage it is
    seconds: float  # if nothing else delays it


def bulk_ratio(observation: Observation) -> float:
    """Bytes that a byte of a migration puts on a link."""
    return 1.0 if observation.cost == "paper" else BULK_WIRE_RATIO


def migration_around_s(observation: Observation, longest_delay_s: float) -> float:
    """Seconds of a migration beside its bytes: the longest path's delay and the handshake; none in the paper."""
    return 0.0 if observation.cost == "paper" else longest_delay_s + MIGRATION_HANDSHAKE_S


def migration_loads(
    observation: Observation, moves: Iterable[tuple[Block, str, str]], length: int
) -> tuple[list[Load], float]:
    """(every load of some moves of (block, from, to), the longest path delay among them in seconds)."""
    carried: dict[Leg, int] = {}
    loaded: dict[str, int] = {}
    delay = 0.0
    for block, source, target in moves:
        sent, read = moved_bytes(observation, block, length)
        path = observation.path(source, target) if source != target else ()
        for leg in path:
            carried[leg] = carried.get(leg, 0) + sent
        loaded[target] = loaded.get(target, 0) + read
        delay = max(delay, sum(leg.delay_s for leg in path))
    ratio = bulk_ratio(observation)
    loads = [Load(leg.hop, size * ratio * 8 / max(leg.rate_bps, OUTAGE_BPS)) for leg, size in carried.items()]
    for device, size in loaded.items():
        loads.append(Load(device, size / max(observation.device(device).storage_Bps, STALLED_RATE)))
    return loads, delay


def migration_delay(observation: Observation, old: Placement | None, new: Placement, length: int) -> float:
    """Seconds from prepare to commit: the busiest link or storage, the longest path's delay and the handshake.

    `length` is the number of cached positions (`cached_length`). It is 0 when nothing moves or nothing is placed yet.
    """
    loads, delay = migration_loads(observation, old.moves_to(new), length) if old is not None else ([], 0.0)
    if not loads:
        return 0.0
    return max(load.seconds for load in loads) + migration_around_s(observation, delay)


def interval_cost(observation: Observation, old: Placement | None, new: Placement) -> float:
    """Seconds of the coming interval: migration delay plus the latency of each of its tokens.

    Each token counts as the mean of the first and the last. Latency is a maximum of functions affine in the length, so
    over an interval the error is far below 0.1 % (tested).
    """
    plan = make_plan(observation, new)
    first = token_latency(observation, plan, observation.length)
    last = token_latency(observation, plan, observation.final_length)
    delay = migration_delay(observation, old, new, cached_length(observation))
    return delay + observation.interval_tokens * (first + last) / 2
