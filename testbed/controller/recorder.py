"""Turns what happened into rows of the run log: wall times become emulated ones, passes become token steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from testbed.clock import EmulatedClock
from testbed.controller.fleet import DeviceLost, HostUsage, LinkSample, Samples
from testbed.controller.migration_driver import MigrationResult
from testbed.placement.blocks import Placement
from testbed.placement.observation import Proof
from testbed.runlog.folder import ABORTED, COMMITTED, TABLES, RunLog, Written
from testbed.runlog.journal import Generated, Lost
from testbed.transport.messages import Span, Token


class Recorder:
    """Writes rows and keeps none; the summary is computed from the files."""

    def __init__(self, log: RunLog, clock: EmulatedClock, prefill_chunks: int) -> None:
        self.log = log
        self._clock = clock
        self._chunks = prefill_chunks

    @property
    def kept(self) -> dict[str, Written]:
        """The rows of every table so far, read from their files on each access."""
        return {table: self.log.written(table) for table in TABLES}

    def token(self, token: Token, predicted_s: float, wire: float) -> None:
        """One generated token with its prediction and its traffic."""
        latency = self._clock.duration(token.end_s - token.start_s)
        spent: dict[str, float | None] = {"compute_s": None, "transfer_s": None, "software_s": None}
        if token.compute_s is not None and token.transfer_s is not None:
            compute, transfer = self._clock.duration(token.compute_s), self._clock.duration(token.transfer_s)
            spent = {"compute_s": compute, "transfer_s": transfer, "software_s": latency - compute - transfer}
        row = {
            "step": token.step,
            "token_id": token.token_id,
            "epoch": token.epoch,
            "prefill": token.step == 0,
            "start_s": self._clock.at(token.start_s),
            "latency_s": latency,
            "predicted_s": predicted_s,
            **spent,
            "wire_bytes": round(wire),
            "logits_digest": token.logits_digest,
        }
        self.log.journal(Generated(row, self._clock.trace_now()))
        self.log.row("tokens", **row)

    def spans(self, spans: Sequence[Span]) -> None:
        """What devices and paths were busy with. The passes of the prefill belong to token 0."""
        for span in spans:
            self.log.row(
                "spans", step=max(0, span.step - self._chunks + 1), layer=span.layer, kind=span.kind, block=span.block,
                device=span.device, peer=span.peer or None, start_s=self._clock.at(span.start_s),
                end_s=self._clock.at(span.end_s), bytes=round(span.bytes), flops=span.flops, overrun=span.overrun,
                due_s=self._clock.duration(span.due_s) if span.kind == "block" else None,
            )  # fmt: skip

    def fault(self, device: str, step: int, event: DeviceLost, killed_s: float | None, recovering: bool) -> None:
        """A device whose worker has ended; `killed_s` is the emulated time at which a trace killed it."""
        row = {
            "t_s": self._clock.now(),
            "device": device,
            "step": step,
            "cause": "oom" if event.oom_killed else "hung" if event.hung else "exit",
            "exit_code": event.exit_code,
            "killed_s": killed_s,
            "recovering": recovering,
        }
        if recovering:
            self.log.journal(Lost(row))
        self.log.row("faults", **row)

    def late(self, device: str, step: int, messages: int) -> None:
        """Messages that a lost device had sent, or still sent, and that were dropped."""
        self.log.row(
            "faults", t_s=self._clock.now(), device=device, step=step, cause="late", recovering=False, messages=messages
        )

    def recovery(self, **values: Any) -> None:
        """A recovery from the loss of devices, from its notice to the first token after it."""
        self.log.row("recoveries", **values)

    def decision(self, proof: Proof | None = None, **values: Any) -> None:
        """One call of the policy: what it decided, what it cost, and what it proved."""
        self.log.row("decisions", t_s=self._clock.now(), **values, **(asdict(proof) if proof is not None else {}))

    def migration(
        self, result: MigrationResult, predicted_s: float | None, requested_bps: Mapping[tuple[str, str], float] | None
    ) -> None:
        """Every block's migration, and the rate that each path reached (None: it was not to use its links' rates)."""
        migration = result.migration
        outcome = COMMITTED if migration.outcome == "done" else ABORTED
        paths: dict[tuple[str, str], list[tuple[float, float, int]]] = {}
        for move in migration.moves:
            arrival = result.arrivals.get(str(move.block))
            self.log.row(
                "migrations", epoch=migration.epoch, block=str(move.block), src=move.source, dst=move.destination,
                bytes=move.payload_bytes, start_s=self._clock.at(result.started_s),
                first_byte_s=self._clock.at(arrival.first_byte_s) if arrival else None,
                last_byte_s=self._clock.at(arrival.last_byte_s) if arrival else None, predicted_s=predicted_s,
                outcome=outcome, weights_bytes_loaded=arrival.weights_bytes if arrival else None, live=migration.live,
            )  # fmt: skip
            if arrival and arrival.payload_bytes and requested_bps is not None:
                timing = (arrival.first_byte_s, arrival.last_byte_s, arrival.payload_bytes)
                paths.setdefault((move.source, move.destination), []).append(timing)
        for (source, destination), timings in paths.items():
            first, last = min(t[0] for t in timings), max(t[1] for t in timings)
            size = sum(t[2] for t in timings)
            if last > first and requested_bps is not None:
                requested = requested_bps[source, destination]
                self.rate(first, last - first, source, destination, size, requested, "migration")

    def rate(
        self, start_s: float, seconds: float, source: str, destination: str, size: int, requested_bps: float, how: str
    ) -> None:
        """The rate that one transfer reached, from the first to the last payload byte at the receiver."""
        self.log.row(
            "rates", t_s=self._clock.at(start_s) if start_s else 0.0, device=source, direction="path", peer=destination,
            requested_bps=requested_bps, achieved_bps=size * 8 / self._clock.duration(seconds), bytes=size, how=how,
        )  # fmt: skip

    def estimates(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """What was estimated at a boundary, beside the truth."""
        for row in rows:
            self.log.row("estimates", **row)

    def delays(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """What delay each direction of a link had."""
        for row in rows:
            self.log.row("delays", **row)

    def placement(self, placement: Placement, step: int) -> None:
        """The whole placement, at each commit."""
        held = sorted(placement.devices.items(), key=lambda item: item[0].sort_key)
        epoch = placement.epoch
        self.log.rows(
            "placements",
            [{"epoch": epoch, "step": step, "block": str(block), "device": device} for block, device in held],
        )

    def links(self, samples: Sequence[LinkSample]) -> None:
        """Links as they were changed or found."""
        for sample in samples:
            self.log.row(
                "links", t_s=self._clock.now() if sample.t_s is None else sample.t_s, device=sample.device,
                direction=sample.direction, requested_bps=sample.requested_bps, applied_bps=sample.applied_bps,
                readback_bps=sample.readback_bps, delay_s=sample.delay_s, lag_s=sample.lag_s,
                sent_bytes=sample.sent_bytes, dropped=sample.dropped, backlog=sample.backlog,
            )  # fmt: skip

    def wait(self, device: str, first: int, last: int, wait_s: float, span_s: float) -> None:
        """How long a device waited for the host's CPU while tokens first-last were generated, for the verdict."""
        self.log.row("waits", device=device, first=first, last=last, wait_s=wait_s, span_s=span_s)

    def host(self, first: int, last: int, before: HostUsage, now: HostUsage) -> None:
        """What the host's cores were used for while tokens first-last were generated."""
        span_s = now.at_s - before.at_s
        core_s = span_s * now.cores
        if core_s <= 0:
            return
        own_s, idle_s = max(0.0, now.own_s - before.own_s), now.idle_s - before.idle_s
        others_s = core_s - idle_s - own_s - (now.interrupts_s - before.interrupts_s)
        pressed = None
        if now.pressure_s is not None and before.pressure_s is not None:
            pressed = (now.pressure_s - before.pressure_s) / span_s
        self.log.row(
            "host", t_s=self._clock.at(now.at_s), first_step=first, last_step=last, span_s=self._clock.duration(span_s),
            cores=now.cores, own_share=own_s / core_s, others_share=max(0.0, others_s / core_s),
            idle_share=idle_s / core_s, pressure_share=pressed, load=now.load,
        )  # fmt: skip

    def samples(
        self,
        samples: Samples,
        budgets: Mapping[str, int],
        predicted: Mapping[str, int],
        waits: Mapping[str, float],
    ) -> None:
        """Every device's memory and every link's queue."""
        self.links(samples.links)
        for sample in samples.devices:
            self.log.row(
                "devices", t_s=self._clock.now(), device=sample.device, budget_bytes=budgets[sample.device],
                ledger_bytes=sample.ledger_bytes, predicted_bytes=predicted[sample.device],
                limit_bytes=sample.limit_bytes, ballast_bytes=sample.ballast_bytes,
                runqueue_wait_s=waits.get(sample.device), rss_bytes=sample.rss_bytes, alive=sample.alive,
            )  # fmt: skip
