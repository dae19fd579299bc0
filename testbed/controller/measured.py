"""`observation: measured`: turns what a fleet reports into the estimator's samples, and estimates into rows of the log.

An emulated fleet's workers hand over the spans of what they did; a simulated fleet hands over those that its devices
would have noted. From here on the two are alike, so identical samples give identical decisions.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from testbed.controller.conditions import Conditions, observation_of
from testbed.controller.estimator import Estimator, Operation, values_of
from testbed.controller.fleet import Fleet, Samples
from testbed.controller.link_samples import ROUGH_NOISES, Message, Train
from testbed.controller.migration_driver import MigrationResult
from testbed.controller.path_estimates import TRAIN_REACHES
from testbed.controller.probing import MOST_S, SHORT_BYTES, STALE_INTERVALS, Probe, ProbeBudget
from testbed.experiment.schema import Experiment
from testbed.placement.blocks import WHOLE, Block
from testbed.placement.cost.model import BULK_WIRE_RATIO, chunk_rows
from testbed.placement.latency import message_bits, transfer_seconds
from testbed.placement.observation import Observation, path_rate_bps
from testbed.placement.operation import Cost, block_cost, lm_head_cost
from testbed.transport.messages import Span

TRAIN_LEAST_S = 0.02  # a shorter migration tells no rate, because its first chunk weighs too much
PROBE_PATIENCE_S, PROBE_PATIENCE = 0.2, 3  # emulated seconds, and times as long as a probe should take
TRAIN_DELAYS = 20  # and it must last so many times the path's delay
_LABEL = re.compile(r"(head|proj|ffn|sum|vocab|lm_head)(?:\(([\d,]+)\))?$")

Row = dict[str, object]


class Measured:
    """What the controller of one run has seen of its devices and links so far."""

    def __init__(self, experiment: Experiment, prompt_tokens: int, fleet: Fleet, hop_overhead_s: float) -> None:
        self._experiment, self._clock = experiment, fleet.clock
        memory = {device.name: device.memory_bytes for device in experiment.topology.devices}
        told = Conditions(experiment).target()  # before any trace: what the devices said when they joined
        self._told = observation_of(experiment, told, memory, prompt_tokens, 0, hop_overhead_s)
        noise_s = fleet.stamp_noise_s / fleet.clock.dilation
        self._estimator, self._rough_s = Estimator(self._told, fleet.burst_bits, noise_s), ROUGH_NOISES * noise_s
        rows = chunk_rows(prompt_tokens, experiment.prefill_chunk)
        self._chunks = list(zip(itertools.accumulate(rows), rows, strict=True))  # (length, rows) of each prefill pass
        self._prompt_tokens = prompt_tokens
        self._models = {device.name: device.model for device in experiment.topology.devices}
        self._budget, self._boundary_s = ProbeBudget(experiment.probe_share), 0.0
        self._probed: set[tuple[str, str]] = set()  # directions of links that probes crossed at this boundary
        self._begun: bool | None = None  # whether anything has been seen; None: nobody has asked yet
        self._held: Observation | None = None  # what was true in the interval that has just ended

    # --- samples -----------------------------------------------------------------------------------------

    def spans(self, spans: Iterable[Span]) -> None:
        """Take in what devices computed and what reached them."""
        operations: list[Operation] = []
        messages: list[Message] = []
        duration = self._clock.duration
        for span in spans:
            if span.kind == "transfer":
                stamps = duration(span.start_s), duration(span.end_s)
                messages.append(Message(span.device, span.peer, message_bits(span.bytes), *stamps))
            elif (cost := self._cost(span)) is not None:
                count, one = cost
                seconds = duration(span.end_s - span.start_s) - count * self._models[span.device].barrier_s
                flops, size = count * one.counted_flops, count * one.counted_bytes
                operations.append(Operation(span.device, flops, size, seconds))
        self._estimator.operations(operations)
        self._estimator.messages(messages)

    def _cost(self, span: Span) -> tuple[int, Cost] | None:
        """(number of blocks, the cost of each) of an operation; None for one that is too small to tell anything."""
        found = _LABEL.match(span.block)
        if found is None:
            return None
        kind, numbers = found[1], (found[2] or "").split(",")
        experiment, model = self._experiment, self._models[span.device]
        if kind == "lm_head":
            return 1, lm_head_cost(experiment.shape, model)
        number = span.step - len(self._chunks)
        length, rows = self._chunks[span.step] if number < 0 else (self._prompt_tokens + number + 1, 1)
        if kind == "vocab":
            rows = 1
        cost = block_cost(
            experiment.shape, Block(kind, 0), length, rows, experiment.partition or WHOLE, model  # type: ignore[arg-type]
        )  # fmt: skip
        return max(1, len(numbers) - 1) if kind in ("head", "ffn", "vocab") else 1, cost

    def samples(self, samples: Samples) -> None:
        """Take in what the devices' kernels or ledgers say of their memory, and a simulated fleet's spans."""
        now_s = self._clock.now()
        for sample in samples.devices:
            if sample.available_bytes is not None:
                self._estimator.memory(sample.device, sample.available_bytes, now_s)
        self.spans(samples.spans)

    def migrated(self, result: MigrationResult) -> None:
        """Take in a migration over one path. Where several moved at once, each had only a share of its links."""
        paths = {(move.source, move.destination) for move in result.migration.moves}
        arrivals = [arrival for arrival in result.arrivals.values() if arrival.payload_bytes]
        if len(paths) != 1 or not arrivals:
            return
        pair = paths.pop()
        seconds = max(each.last_byte_s for each in arrivals) - min(each.first_byte_s for each in arrivals)
        seconds = self._clock.duration(seconds)
        least_s = max(TRAIN_LEAST_S, TRAIN_DELAYS * sum(leg.delay_s for leg in self._told.path(*pair)))
        if seconds >= least_s:
            bits = 8 * BULK_WIRE_RATIO * sum(arrival.payload_bytes for arrival in arrivals)
            self._estimator.train(Train(*pair, bits, seconds))

    def restarted(self, device: str) -> None:
        """A lost device has returned."""
        self._estimator.restarted(device)

    # --- estimates ---------------------------------------------------------------------------------------

    def end_interval(self, probing: bool, lost: Collection[str] = ()) -> list[Probe]:
        """Turn the samples of the interval before a boundary into estimates; returns the probes that are due.

        Before the first placement, whatever is probed is probed on credit.
        """
        now_s = self._clock.now()
        self._estimator.end_interval(now_s)
        self._probed.clear()
        interval_s, self._boundary_s = now_s - self._boundary_s, now_s
        self._begun = self._begun is not None
        if not self._begun:
            return self._budget.first(self._told) if probing else []
        seen = self._estimator.observation(self._told, now_s, {})
        for name, link in seen.links.items():
            self._budget.earn(interval_s, {(name, "up"): link.up_bps, (name, "down"): link.down_bps})
        if not probing or interval_s <= 0:
            return []
        stale = self._estimator.stale_links(now_s, STALE_INTERVALS * interval_s)
        return self._budget.choose(seen, stale, self._estimator.doubted_links, lost)

    def patience_s(self, probe: Probe) -> float:
        """The emulated seconds to wait for a probe."""
        path = self._estimator.observation(self._told, self._clock.now(), {}).path(probe.sender, probe.receiver)
        return PROBE_PATIENCE_S + PROBE_PATIENCE * transfer_seconds(path, probe.size)

    def probed(self, probe: Probe, seconds: float, since_sent_s: float | None) -> Probe | None:
        """Take in how long a probe's bits took, and how long it seems to have been since the first was sent.

        Returns the longer burst that is to follow a short one. Before the first placement one follows only if the short
        one has contradicted what was told. What the last burst over a path took counts from `end_probes` on.
        """
        seen = self._estimator.observation(self._told, self._clock.now(), {})
        path = seen.path(probe.sender, probe.receiver)
        believed_bps = path_rate_bps(path)
        self._probed |= {(f"link/{leg.hop[0]}", leg.hop[1]) for leg in path}
        self._budget.late({leg.hop for leg in path}, max(0.0, seconds - probe.bits / believed_bps))
        contradicts = seconds > max(self._rough_s, probe.bits / believed_bps / TRAIN_REACHES)
        if since_sent_s is not None and probe.size == SHORT_BYTES and (self._begun or contradicts):
            shown_bps = probe.bits / max(seconds, self._rough_s)
            rate_bps = shown_bps if seconds > self._rough_s else max(shown_bps, believed_bps)
            longer = self._budget.longer(seen, probe, rate_bps, 0.0 if self._begun else MOST_S)
            if longer is not None:
                return longer
        apparent_s = None if since_sent_s is None else since_sent_s - seconds
        self._estimator.train(Train(probe.sender, probe.receiver, probe.bits, seconds, apparent_s))
        return None

    def end_probes(self) -> None:
        """Turn what the probes of a boundary took into estimates."""
        self._estimator.hear_trains(self._clock.now())

    def observation(self, truth: Observation, announced: Mapping[str, int]) -> Observation:
        """What a policy sees at a boundary."""
        return self._estimator.observation(truth, self._clock.now(), announced)

    def rows(self, truth: Observation, seen: Observation) -> Sequence[Row]:
        """The estimates beside the truth, for the run's log.

        Rates and delays were seen in the interval that has ended, so on the token clock they stand beside what was
        true in it, unless a probe has seen them since. Memory is sampled at the boundary.
        """
        now_s, used = self._clock.now(), self._estimator.used
        held = self._held if self._held is not None and self._experiment.trace_clock == "token" else truth
        self._held = truth
        estimates, since_s = seen.estimates or {}, now_s - self._boundary_s
        true = values_of(held) | {
            key: value for key, value in values_of(truth).items()
            if key[1] == "memory" or (key in self._probed and estimates[key].age_s < since_s)
        }  # fmt: skip
        return [
            {
                "step": truth.tokens_done, "t_s": now_s, "target": target, "quantity": quantity,
                "estimate": estimate.value, "truth": true[target, quantity], "age_s": estimate.age_s,
                "spread": estimate.spread, "used": (target, quantity) in used,
            }
            for (target, quantity), estimate in estimates.items()
        ]  # fmt: skip
