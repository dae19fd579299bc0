"""What readers of run folders take from manifest.json and summary.json, and of which type it is.

Both hold more than this; what else is in them is for people.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

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
