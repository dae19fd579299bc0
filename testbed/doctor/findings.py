"""What the doctor reports: one line for each thing it tried."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

BUSY_REMEDY = "stop what else runs here and measure again; runs that do not need this are judged by their own verdict"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    name: str
    ok: bool
    required: bool  # without it no mininet run can be made
    detail: str
    remedy: str = ""
    fidelity: bool = False  # whether it says how well this machine emulates, not what it can
    measured: dict[str, object] = field(default_factory=dict)  # figures behind `detail`; SI units, in the names
    slow: bool = False  # it is there and works, but not as fast as it should; `remedy` says what helps


def tried(name: str, required: bool, remedy: str, trial: Callable[[], Finding]) -> Finding:
    """What a trial finds, or what it failed with: no trial that fails ends the others."""
    try:
        return trial()
    except Exception as error:
        return Finding(name, False, required, failure(error), remedy)


def failure(error: BaseException) -> str:
    """An exception in one line; never empty. Those of this package speak for themselves."""
    from testbed.errors import TestbedError

    said = re.sub(r"\s+", " ", str(error)).strip()
    if isinstance(error, TestbedError | OSError) and said:
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
