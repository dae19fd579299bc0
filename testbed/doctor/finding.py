"""A finding: one line of the doctor's report, on one thing that it tried."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

BUSY_REMEDY = "stop what else runs here and measure again; runs that do not need this are judged by their own verdict"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    name: str
    ok: bool
    required: bool  # without it the mininet backend cannot run
    detail: str
    remedy: str = ""
    fidelity: bool = False  # whether it says how well this machine emulates, rather than what it can do
    measured: dict[str, object] = field(default_factory=dict)  # the figures behind `detail`, in SI units
    slow: bool = False  # it works, but not as fast as it should; `remedy` says what helps


def measured(name: str, found: Any, detail: str, **also: float) -> Finding:
    """How well this machine emulates in one respect; `found` has every figure behind it, and whether they are `ok`."""
    return Finding(name, found.ok, False, detail, BUSY_REMEDY, fidelity=True, measured=asdict(found) | also)


def tried(name: str, required: bool, remedy: str, trial: Callable[[], Finding]) -> Finding:
    """What a check finds, or how it failed. A failing check does not end the others."""
    try:
        return trial()
    except Exception as error:
        return Finding(name, False, required, failure(error), remedy)


def failure(error: BaseException) -> str:
    """An exception in one line, never empty. This package's own exceptions need no type in front of their message."""
    from testbed.errors import TestbedError

    said = re.sub(r"\s+", " ", str(error)).strip()
    if isinstance(error, TestbedError | OSError) and said:
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
