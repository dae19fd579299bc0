"""manifest.json and summary.json of a run folder: what readers take from them, and of which type it is.

Both hold more than this; what else is in them is for people.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec

from testbed.errors import ConfigError
from testbed.strict_json import checked, read_object

MANIFEST = "manifest.json"
SUMMARY = "summary.json"

Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


class _Said(msgspec.Struct):
    run: str | None = None
    policy: str | None = None
    backend: str | None = None
    provenance: str | None = None
    seed: int | None = None


class ExperimentSaid(msgspec.Struct):
    """The experiment in a manifest."""

    name: str | None = None
    policy: str | None = None
    seed: int | None = None
    tokens: Count | None = None


class Manifest(_Said):
    """What is known of a run before it begins."""

    experiment_name: str | None = None
    experiment: ExperimentSaid | None = None
    machine: dict[str, str | int | float | bool | None] | None = None


class Verdict(msgspec.Struct):
    """Whether the emulation was faithful."""

    ok: bool
    reasons: list[str] = []
    notes: list[str] = []


class Summary(_Said):
    """How a run ended."""

    status: str | None = None
    error: str | None = None
    exit_code: int | None = None
    verified: str | None = None
    tokens: list[int | None] | None = None
    mean_token_ms: float | None = None
    migrations: Count | None = None
    verdict: Verdict | None = None


def read_manifest(folder: Path) -> dict[str, Any]:
    """What is known of a run before it begins; raises ConfigError where it is missing or not what we write."""
    return _read_document(folder / MANIFEST, Manifest)


def read_summary(folder: Path) -> dict[str, Any] | None:
    """How a run ended; None: it did not come to its end. Raises ConfigError where it is not what we write."""
    path = folder / SUMMARY
    return _read_document(path, Summary) if path.exists() else None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON document of a run; raises ConfigError when missing or damaged."""
    if not path.exists():
        raise ConfigError(f"{path} does not exist: {path.parent} is not a complete run folder")
    return read_object(path)


def _read_document(path: Path, kind: type[Manifest] | type[Summary]) -> dict[str, Any]:
    document = read_json(path)
    checked(document, kind, str(path))
    return document
