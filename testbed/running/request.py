"""What one run is asked to be: the experiment, the backend, where its folder goes, and the options of `testbed replay`.

A request holds no more than values, so that it can be sent to another process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml

from testbed.controller.startup_calibration import Effort
from testbed.errors import ConfigError
from testbed.experiment.overrides import apply_override, parse_override
from testbed.experiment.schema import Experiment
from testbed.strict_yaml import shown

Overrides = str | Sequence[str] | Mapping[str, Any]


@dataclass(frozen=True)
class RunRequest:
    """One run to carry out."""

    experiment: Experiment
    backend: str  # a name in `backends.BACKENDS`
    out: Path  # the folder in which the run's folder is made
    verify: bool = False  # compare every token's logits with those of the single-process reference
    hold: bool = False  # keep the network up at the end, until interrupted
    share_host: bool = False  # do not wait until other emulated runs on this host have ended
    calibrate: Effort = "quick"  # how thoroughly links and host are measured before token 0
    progress: bool = False  # draw a bar on standard error, if that is a terminal
    stream: bool = False  # write the text to standard output as it is generated, if that is a terminal

    def __post_init__(self) -> None:
        """Refuse what the command line could not have asked for."""
        if self.calibrate not in get_args(Effort):
            known = ", ".join(map(repr, get_args(Effort)))
            raise ConfigError(f"calibrate is {shown(self.calibrate)}, but it must be one of {known}")


def load_experiment(source: str | Path | Experiment, overrides: Overrides = (), **options: object) -> Experiment:
    """Load an experiment with overrides, and with the options that are not None on top.

    `source` is a YAML file or an experiment. `overrides` are `key=value` texts as on the command line, or a mapping
    from dotted keys to values. Raises ConfigError naming the file or the override, the key and the value.
    """
    if isinstance(overrides, str):
        overrides = [overrides]
    if isinstance(overrides, Mapping):
        overrides = [f"{key}={_as_yaml(value)}" for key, value in overrides.items()]
    extra = [f"{key}={value}" for key, value in options.items() if value is not None]
    texts = [*overrides, *extra]
    if not isinstance(source, Experiment):
        return Experiment.load(source, texts)
    if not texts:
        return source
    raw = source.to_dict()
    for text in texts:
        apply_override(raw, parse_override(text))
    return Experiment.from_dict(raw, source.name)


def _as_yaml(value: Any) -> str:
    """Write a value as `--set` takes it; numbers may be numpy's. Raises ConfigError for what YAML cannot say."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    try:
        return _written(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"{shown(value)} cannot be an experiment's value, being a {type(value).__name__}") from error


def _written(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10**9).removesuffix("...\n").strip()
