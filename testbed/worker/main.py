"""A worker process from start to end: it sets itself up, then handles deliveries until it is told to stop.

The order at the start matters. The cgroup comes first, so that every page is charged to the device; then the Mininet
host's network namespace; then a warm-up block, so that the baseline is warm; then the sockets.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from pathlib import Path

import zmq

from testbed.decoder.reference import chunk_bounds
from testbed.decoder.store import BlockStore
from testbed.decoder.weights import weight_source
from testbed.errors import ConfigError, RunFailed
from testbed.placement.blocks import copies_of, parse_block
from testbed.transport.beats import BeatLine
from testbed.transport.control import ControlLine
from testbed.transport.copying import Copy, Finish, Halt, Halted, Keep, Replicate
from testbed.transport.data import Activation, DataHeader, DataPlane, PingFrame, ProbeFrame, Rows, RowsAck
from testbed.transport.messages import (
    Abort,
    Collect,
    Collected,
    Commit,
    Committed,
    Connect,
    Connected,
    Continue,
    Decode,
    Failed,
    Hello,
    Interrupt,
    Interrupted,
    Load,
    Loaded,
    OutOfBudget,
    Pace,
    Paced,
    Ping,
    Prefill,
    Prepare,
    Probe,
    Rebuild,
    Rebuilt,
    SetBudget,
    SetDevice,
    SetPaths,
    Stop,
    Token,
    Transfer,
)
from testbed.worker.config import WorkerConfig
from testbed.worker.core_waits import ProcessWaits
from testbed.worker.heartbeat import Pulse, begin_heartbeats
from testbed.worker.inbox import Delivery, Inbox
from testbed.worker.libc import enter_network, use_precise_timers
from testbed.worker.loading import WeightsReady
from testbed.worker.migrating import Migrating
from testbed.worker.outbox import Outbox
from testbed.worker.pacing import Pacer
from testbed.worker.parent_death import end_with_parent
from testbed.worker.probing import Probing
from testbed.worker.proc_settings import keep_idle_connections_fast, write_setting
from testbed.worker.program import Pass, PassResult, Program
from testbed.worker.replicas import Replicas
from testbed.worker.row_streams import StreamNews
from testbed.worker.scheduling import Precedence, put_first, transport_threads
from testbed.worker.startup import return_large_allocations, warm_up


def run(config: WorkerConfig) -> None:
    """Run a worker from start to end, in a child of the forkserver."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    refused: list[str | None] = []
    if config.cgroup_procs:
        Path(config.cgroup_procs).write_text("0")
        # The first to be killed in its group, because the ballast beside it may not be able to protect itself.
        refused.append(write_setting("/proc/self/oom_score_adj", "1000"))
    if config.netns_pid is not None:
        enter_network(config.netns_pid)
        refused += keep_idle_connections_fast()
    use_precise_timers()
    sys.setswitchinterval(config.switch_interval_s)
    return_large_allocations(config.tight_heap)
    warm_up(config.shape, config.prefill_chunk, config.partition)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    line = ControlLine(context, Path(config.control), config.device)
    for thread in transport_threads():
        put_first(thread)
    plane: DataPlane | None = None
    try:
        plane = DataPlane(config.bind, config.secret, config.most_bytes)
        put_first(plane.sending_thread)
        Worker(config, line, plane).serve(tuple(why for why in refused if why is not None))
    except Exception as error:
        configuration = isinstance(error, ConfigError)
        line.send(Failed(f"device {config.device}: {error}", traceback.format_exc(), configuration))
    finally:
        line.finish()  # first, so that the reason of a failure leaves
        if plane is not None:
            plane.close()
    os._exit(0)


class Worker:
    """Hands deliveries to the program, to the two ends of a migration, and to the probes; sends the answers."""

    def __init__(self, config: WorkerConfig, line: ControlLine, plane: DataPlane) -> None:
        self.config = config
        self._line, self._plane = line, plane
        self._inbox = Inbox(line, plane)
        self._outbox = Outbox(config.device, self._plane)
        self._pacer = Pacer(config.paced, config.dilation, Precedence() if config.paced else None, config.model)
        weights = weight_source(config.stored, config.shape, config.model_seed, config.partition)
        self._store = BlockStore(config.shape, weights, config.positions, config.partition)
        self._program = Program(config.device, self._store, self._pacer, self._outbox)
        self._replicas = Replicas(self._store, self._outbox, self._plane, line.send, self._inbox.post)
        self._migrating = Migrating(
            self._store, self._outbox, self._plane, line.send, self._inbox.post, config.dilation,
            self._replicas.make_room,
        )  # fmt: skip
        self._budget_bytes: int | None = None
        self._length = 0  # positions in the KV caches here
        self._checked = -1  # the last pass whose memory was checked
        self._passes: list[Pass] = []  # prefill chunks that the source has yet to run
        self._prompt_tokens = 0
        self._tokens = 0
        self._until = 0
        self._last_token = 0
        self._ends: frozenset[int] = frozenset()
        self._token_started_s = 0.0
        self._step = 0
        self._rebuilding = False  # whether the passes only fill KV caches
        self._generating = self._halting = False  # whether a token is under way, and whether none is to follow
        self._probing = Probing(self._outbox, line.send)
        self._waits = ProcessWaits()
        self._pulse = Pulse(self._pacer)

    def serve(self, refused: tuple[str, ...]) -> None:
        """Report that the worker is up, and which settings the kernel refused; then handle deliveries until Stop."""
        self._line.send(Hello(os.getpid(), self._plane.address, refused))
        self._inbox.start()
        if self.config.beats is not None:
            begin_heartbeats(BeatLine(self.config.beats), self._pulse)
        while True:
            self._pacer.stand_back()
            self._pulse.waiting = True
            delivery = self._inbox.get()
            self._pulse.waiting = False
            self._pulse.deliveries += 1
            if isinstance(delivery.content, Exception):
                raise delivery.content
            if isinstance(delivery.content, Stop):
                return
            if delivery.is_data:
                self._data(delivery)
            else:
                self._command(delivery)

    # --- data ------------------------------------------------------------------------------------------

    def _data(self, delivery: Delivery) -> None:
        content: tuple[DataHeader, memoryview] = delivery.content  # type: ignore[assignment]
        header, payload = content
        due_s = max(delivery.due_s, delivery.received_s)
        if isinstance(header, Activation):
            self._note_length(header.step, header.position, header.rows)
            self._program.accept(header, payload, due_s)
            self._advance()
        elif isinstance(header, ProbeFrame):
            self._probing.take(header, len(payload), due_s)
        elif isinstance(header, PingFrame):
            self._probing.bounce(header)
        elif isinstance(header, Rows | RowsAck) and header.stream < 0:
            self._replicas.take(header, payload, due_s)
        else:
            self._migrating.take(header, payload, due_s)

    def _note_length(self, step: int, position: int, rows: int) -> None:
        """Compare the ledger with the budget once per pass, before the pass writes its KV rows."""
        if step <= self._checked:
            return
        self._checked, self._length = step, position + rows
        self._migrating.rows_came(position)  # a pass begins when all before it have ended
        self._replicas.rows_came(position)
        self._check_budget(self._length)

    def _check_budget(self, length: int) -> None:
        if self._budget_bytes is None:
            return
        need = self._store.held_bytes(length)
        if need > self._budget_bytes and self._replicas.make_room():
            need = self._store.held_bytes(length)
        if need > self._budget_bytes:
            self._line.send(OutOfBudget(length, need, self._budget_bytes))

    def _advance(self) -> None:
        result = self._program.advance()
        if result is not None:
            self._finish_pass(result)

    # --- generating, on the source -----------------------------------------------------------------------

    def _begin_prefill(self, command: Prefill) -> None:
        self._until, self._ends, self._generating = command.until, frozenset(command.ends), True
        self._program.sampling = command.sampling
        self._prompt_tokens = len(command.prompt)
        self._token_started_s = time.monotonic()
        self._begin_chunks(command.prompt, command.chunk, with_token=True)

    def _begin_chunks(self, ids: list[int], chunk: int, with_token: bool, begin: int = 0) -> None:
        """Begin to run ids through from position `begin` on; with a token the last chunk ends with the LM head."""
        first = self._step
        self._passes = [
            Pass(first + number, start, tuple(ids[start:end]), with_token and end == len(ids))
            for number, (start, end) in enumerate(chunk_bounds(len(ids), chunk, begin))
        ]
        self._step += len(self._passes)
        self._begin(self._passes.pop(0), time.monotonic())

    def _begin(self, new: Pass, now_s: float) -> None:
        self._note_length(new.step, new.position, len(new.ids))
        self._program.begin(new, now_s)
        self._advance()

    def _finish_pass(self, result: PassResult) -> None:
        """Begin the next prefill chunk; after the LM head, report a token and begin the next decode pass."""
        if self._passes:
            self._inbox.post(self._passes.pop(0))
            return
        if self._rebuilding:
            self._rebuilding = False
            self._line.send(Rebuilt(self._epoch()))
            return
        self._line.send(
            Token(self._tokens, result.token_id, result.logits_digest, self._epoch(), self._token_started_s,
                  result.end_s, result.compute_s, result.transfer_s)
        )  # fmt: skip
        self._last_token = result.token_id
        self._tokens += 1
        self._token_started_s = result.end_s
        if self._halting:
            self._generating = self._halting = False
            self._line.send(Halted(self._tokens))
        elif self._tokens < self._until and self._last_token not in self._ends:
            self._inbox.post(self._next_pass())
        else:
            self._generating = False

    def _halt(self) -> None:
        """Begin no further token, and say how many there are as soon as none is under way."""
        if self._generating:
            self._halting = True
        else:
            self._line.send(Halted(self._tokens))

    def _next_pass(self) -> Pass:
        step, self._step = self._step, self._step + 1
        return Pass(step, self._prompt_tokens + self._tokens - 1, (self._last_token,))

    def _epoch(self) -> int:
        return self._program.plan.epoch if self._program.plan else -1

    # --- commands --------------------------------------------------------------------------------------

    def _command(self, delivery: Delivery) -> None:
        command = delivery.content
        match command:
            case Pass():
                if not self._program.interrupted:
                    self._begin(command, time.monotonic())
            case WeightsReady():
                self._migrating.weights_ready(command)
            case StreamNews():
                (self._migrating if command.stream >= 0 else self._replicas).streamed(command)
            case Decode():
                self._until, self._generating = command.until, True
                self._token_started_s = time.monotonic()
                self._begin(self._next_pass(), self._token_started_s)
            case Prefill():
                self._begin_prefill(command)
            case Continue():
                self._prompt_tokens, self._tokens = command.prompt_tokens, command.tokens
                self._last_token, self._ends = command.last_token, frozenset(command.ends)
                self._program.sampling = command.sampling
            case Interrupt():
                self._interrupt(command)
            case Rebuild():
                self._rebuilding = True
                self._begin_chunks(command.ids, command.chunk, with_token=False, begin=command.start)
            case SetDevice():
                self._pacer.streaming_Bps, self._pacer.compute_flops = command.streaming_Bps, command.compute_flops
            case SetBudget():
                self._budget_bytes = command.budget_bytes
                self._check_budget(self._length)
            case SetPaths():
                self._inbox.set_paths(command.paths)
                self._outbox.set_rate(command.up_bps)
            case Load():
                self._load(command)
            case Prepare():
                self._length = max(self._length, command.length)
                self._replicas.give_way(item.block for item in command.incoming)
                self._migrating.prepare(command, self._budget_bytes)
            case Transfer():
                self._migrating.transfer(command)
            case Copy():
                self._migrating.copy(command)
            case Finish():
                self._migrating.finish(command)
            case Commit():
                self._commit(command)
            case Abort():
                self._migrating.abort(command)
            case Halt():
                self._halt()
            case Keep():
                self._replicas.keep(command, self._budget_bytes)
            case Replicate():
                self._replicas.replicate(command)
            case Probe():
                self._probing.probe(command)
            case Ping():
                self._probing.ping(command.peer, command.count)
            case Pace():
                self._line.send(Paced(self._pacer.lateness(command.count, command.seconds)))
            case Collect():
                self._collect(command)
            case Connect():
                self._plane.know(command.peers)
                self._line.send(Connected())
            case _:
                raise RunFailed(f"device {self.config.device}: no such command: {command!r}")

    def _interrupt(self, command: Interrupt) -> None:
        """Drop what is under way, and tell what is here. Caches stay: a pass writes its rows by their positions."""
        self._migrating.forget()
        self._replicas.stop()
        self._passes, self._rebuilding, self._generating, self._halting = [], False, False, False
        self._program.interrupt()
        self._outbox.forget(command.lost)
        self._plane.forget(command.lost)
        copies = copies_of(self.config.shape, self.config.partition)
        blocks = [str(block) for block in self._store.blocks if block not in copies]
        self._line.send(Interrupted(command.epoch, blocks, self._tokens, self._step, tuple(self._replicas.held())))

    def _load(self, command: Load) -> None:
        if command.pinned:
            self._store.add_pinned()
        for block in (*copies_of(self.config.shape, self.config.partition), *map(parse_block, command.blocks)):
            self._store.add(block)
        self._line.send(Loaded(self._store.held_bytes(0)))

    def _commit(self, command: Commit) -> None:
        self._migrating.commit()
        self._replicas.stop_sending()  # whose caches they are may change
        for name in command.drop:
            self._store.drop(parse_block(name))
        self._program.switch(command.plan)
        self._plane.connect(self._program.receivers())
        self._line.send(Committed(command.plan.epoch, self._store.held_bytes(self._length)))

    def _collect(self, command: Collect) -> None:
        spans, self._program.spans = self._program.spans, []
        held = self._store.held_bytes(self._length)
        waited_s = max(0.0, self._waits.seconds() - self._pacer.made_up_s)
        late = tuple(self._program.late.items())
        self._line.send(Collected(command.request, spans, held, waited_s, self._plane.strangers(), late))
