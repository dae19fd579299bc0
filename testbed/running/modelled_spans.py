"""The spans of a token that was simulated: what the cost model adds up, operation by operation and message by message.

A simulated run has no spans, because a half-layer is computed as a whole. This module has each half computed again, so
that what happens in it is kept, also for a token that is only planned.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from testbed.analysis.critical_path import Stage
from testbed.controller.conditions import Conditions, observe
from testbed.errors import ConfigError
from testbed.experiment.prompt import prompt_ids
from testbed.experiment.schema import Experiment
from testbed.placement.blocks import Block, Placement, parse_block
from testbed.placement.cost.model import CostModel, chunk_rows
from testbed.placement.observation import Observation
from testbed.placement.plan import Plan, make_plan
from testbed.runlog.folder import read_rows
from testbed.simulation.drawn_delays import drawn_delays
from testbed.simulation.modelled_pass import ModelledPass, Row


class SimulatedTokens:
    """The tokens of a simulated run on the token clock, or at the conditions at their start on the time clock."""

    def __init__(self, folder: Path, experiment: Experiment, hop_overhead_s: float) -> None:
        self._experiment, self._hop_s = experiment, hop_overhead_s
        self._prompt = len(prompt_ids(experiment, computed=False))
        self._placements: dict[int, tuple[int, dict[Block, str]]] = {}
        for row in read_rows(folder, "placements"):
            _, devices = self._placements.setdefault(row["epoch"], (row["step"], {}))
            devices[parse_block(row["block"])] = row["device"]
        self._decided: dict[int, float] = {}  # when the decision was made that began an epoch
        for row in read_rows(folder, "decisions"):
            self._decided.setdefault(row["epoch"], (row["t_s"] or 0.0) - (row["stall_s"] or 0.0))

    @classmethod
    def of(cls, folder: Path, manifest: Mapping[str, Any]) -> SimulatedTokens:
        """The tokens of a simulated run; raises ConfigError if it did not come to its end."""
        hop_s = (manifest.get("facts") or {}).get("hop_overhead_s")
        if hop_s is None:
            raise ConfigError(f"{folder}/manifest.json has no facts.hop_overhead_s: its run did not come to its end")
        experiment = Experiment.from_dict(manifest["experiment"], f"{folder}/manifest.json")
        if experiment.cost == "paper":
            raise ConfigError(f"{folder}: a run with cost: paper has no schedule of operations and messages to show")
        return cls(folder, experiment, hop_s)

    def stages(self, token: Row) -> list[Stage]:
        """The stages of a token, given its row in the table of tokens."""
        first, devices = self._placements[token["epoch"]]
        counted = self._experiment.trace_clock == "token"
        decided, since = (first, token["step"]) if counted else (self._decided[token["epoch"]], token["start_s"])
        plan = make_plan(self._seen(self._conditions(decided), first), Placement(devices, token["epoch"]))
        now = self._conditions(since)
        seen = self._seen(now, token["step"])
        model = drawn_delays(self._experiment, seen, now.target().links, token["step"]) or CostModel(seen)
        chunks = [(self._prompt + token["step"], 1, True)]
        if token["prefill"]:
            rows = chunk_rows(self._prompt, self._experiment.prefill_chunk)
            ends = list(itertools.accumulate(rows))
            chunks = [(end, count, end == self._prompt) for end, count in zip(ends, rows, strict=True)]
        found: list[Stage] = []
        for length, count, last in chunks:
            start = found[-1].end_s if found else token["start_s"]
            found += _stages(ModelledPass(model, plan, length, count, last, start))
        return found

    def spans(self, tokens: Iterable[Row]) -> Iterator[Row]:
        """The spans of tokens as rows of the table; they fill the latency, also where conditions changed meanwhile."""
        for token in tokens:
            stages, start = self.stages(token), token["start_s"]
            modelled = stages[-1].end_s - start
            scale = token["latency_s"] / modelled if modelled else 1.0
            for stage in stages:
                for span in stage.spans:
                    times = {key: start + (span[key] - start) * scale for key in ("start_s", "end_s")}
                    yield dict(span) | times | {"step": token["step"]}

    def _conditions(self, trace_time: float) -> Conditions:
        """What holds at this trace time; on the token clock a change waits for the next boundary."""
        experiment, conditions = self._experiment, Conditions(self._experiment)
        conditions.begin()
        if experiment.trace_clock == "token":
            trace_time = trace_time // experiment.interval * experiment.interval
        if trace_time > 0:
            conditions.advance(trace_time, 0)
        return conditions

    def _seen(self, conditions: Conditions, tokens_done: int) -> Observation:
        return observe(self._experiment, conditions, self._prompt, tokens_done, self._hop_s)


def token_stages(observation: Observation, plan: Plan, length: int) -> list[Stage]:
    """The stages of one decoded token that sees `length` positions and begins at 0."""
    return _stages(ModelledPass(CostModel(observation), plan, length, 1, True, 0.0))


def _stages(modelled: ModelledPass) -> list[Stage]:
    return [Stage(stage.start_s, stage.end_s, stage.ends_at, stage.spans) for stage in modelled.stages]
