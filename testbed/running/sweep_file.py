"""A sweep file: an experiment over values of any of its keys, with policies and seeds, and the runs it consists of.

Every run has a key made of everything it depends on: the whole experiment (generated topology and traces included), the
backend, the text of a policy's file, this host's calibration and the package's own source.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from testbed.bundled import find_file
from testbed.controller.calibration import host_calibration
from testbed.errors import ConfigError
from testbed.experiment.schema import Experiment
from testbed.placement.policies import shared_out
from testbed.running.backends import BACKENDS
from testbed.strict_yaml import read_mapping, refuse_unknown_keys, require_mapping, shown

KEYS = ("experiment", "policies", "seeds", "backend", "over")
DEFAULT_BACKEND = "sim"
MOST_RUNS = 100_000
OWN_KEYS = {"policy": "policies", "seed": "seeds"}  # keys of the experiment that `over` may not have


@dataclass(frozen=True)
class Sweep:
    """A sweep file, read and checked."""

    file: Path
    name: str
    experiment: Path
    policies: tuple[str, ...]  # empty: the experiment's own
    seeds: tuple[int, ...]  # empty: the experiment's own
    backends: tuple[str, ...]
    over: Mapping[str, tuple[Any, ...]]

    @classmethod
    def load(cls, path: Path) -> Sweep:
        """Read the sweep in a file or of a bundled name; raises ConfigError naming the file, the key and the value."""
        path = find_file("sweep", path)
        origin, fields = str(path), read_mapping(path)
        if "model" in fields and "experiment" not in fields:
            raise ConfigError(f"{path} is an experiment, not a sweep: run it with `testbed replay {path}`")
        refuse_unknown_keys(fields, KEYS, origin, "a sweep")
        experiment = fields.get("experiment")
        if not isinstance(experiment, str):
            raise ConfigError(f"{origin}: experiment is {shown(experiment)}, but it must be the path of an experiment")
        backends = _texts(fields.get("backend", [DEFAULT_BACKEND]), origin, "backend")
        for backend in backends:
            if backend not in BACKENDS:
                raise ConfigError(f"{origin}: backend is {shown(backend)}, but it must be one of {', '.join(BACKENDS)}")
        return cls(
            path,
            path.stem,
            find_file("experiment", experiment, path.parent, f"{origin}: experiment"),
            _texts(fields.get("policies", []), origin, "policies"),
            _seeds(fields.get("seeds", []), origin),
            backends,
            _over(fields.get("over", {}), origin),
        )

    def runs(self) -> list[SweptRun]:
        """Load every run of the sweep; values of the swept keys vary slowest, seeds fastest."""
        keys = list(self.over)
        count = math.prod(map(len, (*self.over.values(), self.backends, self.policies or [0], self.seeds or [0])))
        if count > MOST_RUNS:
            raise ConfigError(f"{self.file}: the sweep has {count} runs, and one of over {MOST_RUNS} never ends")
        return [
            self._run(dict(zip(keys, values, strict=True)), policy, seed, backend)
            for values in itertools.product(*self.over.values())
            for backend in self.backends
            for policy in self.policies or (None,)
            for seed in self.seeds or (None,)
        ]

    def _run(self, values: dict[str, Any], policy: str | None, seed: int | None, backend: str) -> SweptRun:
        given = {key: value for key, value in (("policy", policy), ("seed", seed)) if value is not None}
        overrides = [f"{key}={json.dumps(value)}" for key, value in {**values, **given}.items()]
        try:
            experiment = Experiment.load(self.experiment, overrides)
            if self.policies:
                own = shared_out(self.policies, experiment.policy_options)[experiment.policy]
                experiment = experiment.model_copy(update={"policy_options": own})
        except ConfigError as error:
            raise ConfigError(f"{self.file}: {error}") from error
        return SweptRun(run_key(experiment, backend), values, experiment, backend)


@dataclass(frozen=True)
class SweptRun:
    """One run of a sweep."""

    key: str
    values: Mapping[str, Any]  # of the swept keys
    experiment: Experiment
    backend: str


def run_key(experiment: Experiment, backend: str) -> str:
    """Return 20 hexadecimal digits that stand for everything the run depends on."""
    file, colon, _ = experiment.policy.rpartition(".py:")
    policy = Path(f"{file}.py").read_text(encoding="utf-8") if colon and Path(f"{file}.py").is_file() else ""
    whole = [experiment.to_dict(), backend, policy, host_calibration().to_dict(), code_digest()]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:20]


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Return a digest of every source file of `testbed`: a run's outcome can depend on any of them."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(str(file.relative_to(package)).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


# --- reading the file -----------------------------------------------------------------------------------


def _texts(value: object, origin: str, where: str) -> tuple[str, ...]:
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise ConfigError(f"{origin}: {where} is {shown(value)}, but it must be a name or a list of names")
    return _once(entries, origin, where)


def _seeds(value: object, origin: str) -> tuple[int, ...]:
    """Return the seeds that a count (1, 2, …) or a list means."""
    if type(value) is int and value > MOST_RUNS:
        raise ConfigError(f"{origin}: seeds is {value}, but a sweep may have at most {MOST_RUNS} runs")
    entries = list(range(1, value + 1)) if type(value) is int else value
    if not isinstance(entries, list) or not all(type(entry) is int and entry >= 0 for entry in entries) or value == 0:
        raise ConfigError(f"{origin}: seeds is {shown(value)}, but it must be how many, or a list of whole numbers")
    return _once(entries, origin, "seeds")


def _over(value: object, origin: str) -> dict[str, tuple[Any, ...]]:
    fields = require_mapping(value, origin, "over")
    for key, values in fields.items():
        if key in OWN_KEYS:
            raise ConfigError(f"{origin}: over has {key!r}, which the sweep's own key {OWN_KEYS[key]!r} says")
        if not isinstance(key, str):
            raise ConfigError(f"{origin}: over has {shown(key)}, but a key of the experiment is text")
        if not isinstance(values, list) or not values:
            name = shown(key).strip("'")
            raise ConfigError(f"{origin}: over.{name} is {shown(values)}, but it must be a list of values")
        _once([json.dumps(entry) for entry in values], origin, f"over.{key}")
    return {key: tuple(values) for key, values in fields.items()}


def _once(entries: Iterable[Any], origin: str, where: str) -> tuple[Any, ...]:
    found = tuple(entries)
    seen: set[Any] = set()
    for entry in found:
        if entry in seen:
            raise ConfigError(f"{origin}: {where} has {shown(entry)} twice, but every run is made once")
        seen.add(entry)
    return found
