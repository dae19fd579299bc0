"""Programs of several devices in one process, whose messages arrive in any order, and the reference beside them."""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

import msgspec
from decoder_cases import SEED, Where, move

from testbed.decoder.reference import Reference, ReferenceToken, chunk_bounds
from testbed.decoder.store import BlockStore
from testbed.decoder.weights import RandomWeights
from testbed.placement.blocks import WHOLE, Block, Partition, Placement, copies_of
from testbed.placement.observation import DeviceView, LinkView, Observation
from testbed.placement.plan import Plan, make_plan
from testbed.shape import ModelShape
from testbed.transport.data import Activation
from testbed.worker.pacing import Pacer
from testbed.worker.program import Pass, PassResult, Program

PROMPT = [3, 1, 4, 1, 5, 9, 2]
TOKENS = 5
DEVICES = "abc"


class Wire:
    """Messages on their way: each ordered pair of devices keeps its order, and chance decides between pairs."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._queues: dict[tuple[str, str], deque[tuple[Activation, bytes]]] = defaultdict(deque)
        self.sizes: list[tuple[str, str, int]] = []

    def outbox(self, sender: str) -> Any:
        return _Outbox(self, sender)

    def put(self, sender: str, peer: str, header: Activation, payload: bytes) -> None:
        assert sender != peer, "blocks of one device hand over by reference"
        self._queues[sender, peer].append((header, payload))
        self.sizes.append((sender, peer, len(payload)))

    def take(self) -> tuple[str, Activation, bytes] | None:
        waiting = sorted(pair for pair, queue in self._queues.items() if queue)
        if not waiting:
            return None
        pair = self._chance.choice(waiting)
        return (pair[1], *self._queues[pair].popleft())


class _Outbox:
    def __init__(self, wire: Wire, sender: str) -> None:
        self._wire, self._sender = wire, sender

    def send(self, peer: str, header: Activation, payload: memoryview | bytes = b"") -> float:
        self._wire.put(self._sender, peer, msgspec.structs.replace(header, sender=self._sender), bytes(payload))
        return 0.0


class Fleet:
    """Programs of several devices in this process."""

    def __init__(
        self, shape: ModelShape, where: Where, source: str, seed: int = 0, partition: Partition = WHOLE
    ) -> None:
        self.shape, self.where, self.source, self.partition = shape, dict(where), source, partition
        self.wire = Wire(seed)
        weights = RandomWeights(shape, SEED, partition)
        self.programs = {
            name: Program(
                name, BlockStore(shape, weights, shape.positions, partition), Pacer(False, 1.0), self.wire.outbox(name)
            )
            for name in DEVICES
        }  # fmt: skip
        for block, device in where.items():
            self.programs[device].store.add(block)
        for program in self.programs.values():
            for block in copies_of(shape, partition):
                program.store.add(block)
        self.programs[source].store.add_pinned()
        self.epoch = -1
        self.switch()

    def plan(self) -> Plan:
        view = [DeviceView(name, 2**30, 1e9, 1e10, 1e8) for name in DEVICES]
        links = dict.fromkeys(DEVICES, LinkView(1e8, 1e8, 1e-3, 1e-3))
        observation = Observation(self.shape, self.partition, self.source, tuple(view), links, 7, 0, 5, 8)
        return make_plan(observation, Placement(self.where, self.epoch))

    def switch(self) -> None:
        self.epoch += 1
        plan = self.plan()
        for program in self.programs.values():
            program.switch(plan)

    def migrate(self, block: Block, target: str, length: int, shipped: bool = False) -> None:
        move(block, self.programs[self.where[block]].store, self.programs[target].store, length, shipped)
        self.where[block] = target

    def break_off(self, step: int, position: int, ids: list[int], messages: int) -> None:
        """Begin a pass, and let so many of its messages arrive."""
        program = self.programs[self.source]
        program.begin(Pass(step, position, tuple(ids)), 0.0)
        program.advance()
        for _ in range(messages):
            if (message := self.wire.take()) is None:
                return
            peer, header, payload = message
            if peer in self.programs:
                self.programs[peer].accept(header, payload, 0.0)
                self.programs[peer].advance()

    def lose(self, lost: str, choose: Callable[[list[str]], str]) -> None:
        """Take a device away in the middle of a pass, and have others load its blocks, without their caches."""
        del self.programs[lost]
        for program in self.programs.values():
            program.interrupt()
        for block in [block for block, device in self.where.items() if device == lost]:
            self.where[block] = choose(sorted(self.programs))
            self.programs[self.where[block]].store.add(block)
        self.switch()

    def run(self, step: int, position: int, ids: list[int], ends: bool = True) -> PassResult:
        program = self.programs[self.source]
        program.begin(Pass(step, position, tuple(ids), ends), 0.0)
        result = program.advance()
        while (message := self.wire.take()) is not None:
            peer, header, payload = message
            if peer not in self.programs:
                continue
            self.programs[peer].accept(header, payload, 0.0)
            found = self.programs[peer].advance()
            assert found is None or (result is None and peer == self.source)
            result = result or found
        assert result is not None, "the pass came to a halt"
        assert result.step == step
        return result

    def generate(self, chunk: int, between: Any = lambda fleet, length: None) -> list[ReferenceToken]:
        bounds = chunk_bounds(len(PROMPT), chunk)
        for step, (start, end) in enumerate(bounds):
            result = self.run(step, start, PROMPT[start:end], end == len(PROMPT))
            assert (result.token_id < 0) == (end < len(PROMPT))
        tokens = [ReferenceToken(result.token_id, result.logits_digest)]
        for number in range(1, TOKENS):
            length = len(PROMPT) + number - 1
            between(self, length)
            result = self.run(len(bounds) + number - 1, length, [tokens[-1].token_id])
            tokens.append(ReferenceToken(result.token_id, result.logits_digest))
        return tokens


def reference_tokens(shape: ModelShape, chunk: int, partition: Partition = WHOLE) -> list[ReferenceToken]:
    reference = Reference(shape, RandomWeights(shape, SEED, partition), shape.positions, partition)
    return list(reference.generate(PROMPT, TOKENS, chunk))
