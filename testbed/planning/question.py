"""What a plan is asked: the model, the devices, and for which sequences; and what a policy then sees in a format."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from testbed.controller.calibration import NOMINAL
from testbed.errors import ConfigError
from testbed.experiment.schema import Experiment
from testbed.placement.blocks import WHOLE
from testbed.placement.cost.memory import nothing_fits
from testbed.placement.observation import DeviceView, Observation
from testbed.planning.rates import DeviceRate, device_rates, with_rates
from testbed.planning.ways import WAYS, partition_of
from testbed.running.first_observation import first_observation
from testbed.running.models import find_shape, in_formats, model_folder
from testbed.shape import ModelShape
from testbed.strict_yaml import suggest
from testbed.topologies.model import Topology
from testbed.validation.calibration import Calibration

LONGEST_CONTEXT = 8192
"""Positions for which caches are planned where a model has more: engines set aside no more unless they are told."""

USUAL_PROMPT = 128  # tokens
PLANNED_FORMATS = ("float32", "float16", "q8_0", "q4_1", "q4_0")  # widest first; bfloat16 has the bytes of float16


@dataclass(frozen=True)
class Question:
    """A model on some devices."""

    model: str  # a preset or a path
    shape: ModelShape  # without the format of a plan
    topology: Topology
    context: int  # positions for which caches are set aside
    prompt: int  # tokens
    reserve_bytes: int  # of each board's memory, for its system
    calibration: Calibration

    @property
    def length(self) -> int:
        """The position of the token that is timed: the middle of an answer as long as the prompt."""
        return min(self.prompt + self.prompt // 2, self.context)

    def seen_in(self, weights: str) -> tuple[Observation, dict[str, DeviceRate]]:
        """What a policy sees with all weights in a format, and where each device's rates are from."""
        rates = device_rates(self.topology, weights, self.calibration)
        base = first_observation(self._experiment(), self.prompt, NOMINAL)
        devices = tuple(self._reserved(with_rates(view, rates)) for view in base.devices)
        return replace(base, shape=in_formats(self.shape)[weights], devices=devices), rates

    def _experiment(self) -> Experiment:
        path = Path(self.model)
        named: dict[str, Any] = {"preset": self.model}
        if os.path.lexists(path):
            named = {"path": str(model_folder(path.absolute())), "random": True}
        tokens = self.context - self.prompt
        return Experiment.from_dict(
            {
                "model": named | {"kv_format": self.shape.kv_format, "wire_format": self.shape.wire_format},
                "prompt": {"ids": [0] * self.prompt},
                "tokens": tokens,
                "interval": tokens,
                "topology": self.topology.to_dict(),
            },
            "plan",
        )

    def _reserved(self, view: DeviceView) -> DeviceView:
        """A board of the catalogue without what its system keeps; other devices' memory is for the model alone."""
        if self.topology.device(view.name).catalogue is None:
            return view
        return replace(view, available_bytes=max(0, view.available_bytes - self.reserve_bytes))


def read_question(
    model: str | Path, topology: Topology, calibration: Calibration, *, context: int | None, prompt: int | None,
    reserve_bytes: int, kv_format: str, wire_format: str,
) -> Question:  # fmt: skip
    """The question, checked; raises ConfigError."""
    shape = replace(find_shape(model), kv_format=kv_format, wire_format=wire_format)
    given = context
    context = min(shape.positions, LONGEST_CONTEXT) if context is None else context
    if not 2 <= context <= shape.positions:
        raise ConfigError(f"--context {given}: {shape.name} has from 2 to {shape.positions} positions")
    prompt = min(USUAL_PROMPT, context // 2) if prompt is None else prompt
    if not 1 <= prompt < context:
        raise ConfigError(f"--prompt {prompt}: it must be from 1 to {context - 1} tokens, one less than --context")
    return Question(str(model), shape, topology, context, prompt, reserve_bytes, calibration)


def formats_of(question: Question, asked: str | None) -> list[str]:
    """The formats to plan with, the widest first; raises ConfigError for one that the model cannot have."""
    able = in_formats(question.shape)
    if asked is None:
        return [name for name in PLANNED_FORMATS if name in able]
    if asked not in able:
        known = ", ".join(able)
        raise ConfigError(f"--format {asked}: {question.shape.name} can be held in {known}{suggest(asked, able)}")
    return [asked]


def why_not(observation: Observation) -> str | None:
    """One sentence that says why no way fits these devices, or None where one does."""
    cut = {partition_of(way, observation.shape, len(observation.devices)) for way in WAYS if way.cut} - {None}
    reasons = [nothing_fits(replace(observation, partition=partition)) for partition in (*cut, WHOLE) if partition]
    return None if None in reasons else reasons[-1]  # of the whole layers, which is the plainest
