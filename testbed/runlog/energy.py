"""The energy of a run: each device's power while it computes and while it waits, times the seconds of both."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from testbed.device_model import DeviceModel


def busy_seconds(spans: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The seconds for which each device computed; an operation that the host finished late counts as it was due."""
    found: dict[str, float] = {}
    for row in spans:
        if row["kind"] == "block":
            late = row.get("overrun") and row.get("due_s") is not None
            seconds = row["due_s"] if late else row["end_s"] - row["start_s"]
            found[row["device"]] = found.get(row["device"], 0.0) + seconds
    return found


def energy(
    models: Mapping[str, DeviceModel], busy_s: Mapping[str, float], total_s: float, tokens: int
) -> dict[str, Any]:
    """The keys of a summary about energy, for a run of `total_s` seconds.

    `energy` has the `busy_s`, `idle_s` and `joules` of each device whose power is known, and is None if there is none.
    `joules` and `joules_per_token` are sums over all devices, and None unless the power of all is known.
    """
    rows = {}
    for name, model in models.items():
        busy = min(busy_s.get(name, 0.0), total_s)
        joules = model.joules(busy, total_s)
        if joules is not None:
            rows[name] = {"busy_s": busy, "idle_s": total_s - busy, "joules": joules}
    whole = math.fsum(row["joules"] for row in rows.values()) if len(rows) == len(models) else None
    return {
        "energy": rows or None,
        "joules": whole,
        "joules_per_token": whole / tokens if whole is not None and tokens else None,
    }
