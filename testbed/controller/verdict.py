"""Whether a run's emulation was faithful, from what the run itself recorded.

Each reason names a device and what was off, so that a researcher can act on it. Notes say what a reader must
know and that does not make the run wrong, such as memory limits that no kernel enforced.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from testbed.units import format_rate

Row = Mapping[str, Any]

TCP_SHARE = 0.956  # of a link's rate is payload at MTU 1500
READBACK_TOLERANCE = 1e-3
SHAPED_AT_MOST = 1.03  # of TCP_SHARE; above it the link was not shaped
JUDGED_FROM_S = 0.1  # of the rate; in shorter transfers the bucket's first burst weighs too much
PROBED_AT_LEAST = 0.75  # of TCP_SHARE; a probe is short, so this only catches a link that is badly off
OVERRUN_SHARE = 0.05  # of a device's operations may be late,
OVERRUNS_ALLOWED = 4  # or so many, on a device that has few
PACED_FROM_S = 1e-3  # shorter operations drown in our own few hundred microseconds: noted, not held against the run
SOFTWARE_SHARE = 0.10  # of the decode time; beyond it the figures say more about this testbed than about the devices


def verdict(kept: Mapping[str, Sequence[Row]], facts: Mapping[str, Any], paced: bool) -> dict[str, Any]:
    """`{ok, reasons, notes}` from a run's rows by table; `paced` is false for compute that paces nothing."""
    reasons = [*_shaping(kept["links"]), *_rates(kept["rates"]), *(_overruns(kept["spans"]) if paced else ())]
    for device, (planned, found) in facts.get("memory_limits", {}).items():
        if planned != found:
            reasons.append(f"device {device}: the memory limit was set to {planned} bytes and the kernel says {found}")
    notes = [f"memory limits are {facts['memory']}"] if str(facts.get("memory", "")).startswith("not enforced") else []
    notes += [*_software(kept["tokens"], kept["spans"]), *facts.get("notes", ())]
    return {"ok": not reasons, "reasons": reasons, "notes": notes}


def _shaping(links: Iterable[Row]) -> list[str]:
    wrong: dict[tuple[str, str], Row] = {}
    for row in links:
        found = row.get("readback_bps")
        if found is not None and abs(found - row["applied_bps"]) > READBACK_TOLERANCE * row["applied_bps"] + 8:
            wrong[row["device"], row["direction"]] = row
    return [
        f"link {device} {direction}: asked for {format_rate(row['requested_bps'])}, the kernel says "
        f"{format_rate(row['readback_bps'])}"
        for (device, direction), row in wrong.items()
    ]


def _rates(rates: Iterable[Row]) -> list[str]:
    reasons = []
    for row in rates:
        if row["bytes"] * 8 < JUDGED_FROM_S * row["requested_bps"] or not row["requested_bps"]:
            continue
        share = row["achieved_bps"] / (row["requested_bps"] * TCP_SHARE)
        path = f"path {row['device']} to {row['peer']}"
        if share > SHAPED_AT_MOST:
            reasons.append(
                f"{path}: a {row['how']} reached {format_rate(row['achieved_bps'])} on a link of "
                f"{format_rate(row['requested_bps'])}: it was not shaped"
            )
        elif row["how"] == "probe" and share < PROBED_AT_LEAST:
            reasons.append(
                f"{path}: a probe reached only {format_rate(row['achieved_bps'])} of "
                f"{format_rate(row['requested_bps'])}: this host is too busy or too slow for that rate"
            )
    return reasons


def _overruns(spans: Iterable[Row]) -> list[str]:
    late: dict[str, int] = defaultdict(int)
    total: dict[str, int] = defaultdict(int)
    for row in spans:
        if row["kind"] == "block" and row["due_s"] >= PACED_FROM_S:
            total[row["device"]] += 1
            late[row["device"]] += bool(row.get("overrun"))
    return [
        f"device {device}: {late[device]} of {count} operations took longer on this host than on the emulated device: "
        "use slower devices, fewer of them, or `dilation: 2`"
        for device, count in sorted(total.items())
        if late[device] > max(OVERRUNS_ALLOWED, OVERRUN_SHARE * count)
    ]


def _software(tokens: Iterable[Row], spans: Sequence[Row]) -> list[str]:
    """A note where blocks are too small for this testbed to pace them and hop between them unnoticed."""
    decoded = [row for row in tokens if not row["prefill"]]
    spent = sum(row["latency_s"] for row in decoded)
    short = [row for row in spans if row["kind"] == "block" and row["due_s"] < PACED_FROM_S]
    late = sum(row["end_s"] - row["start_s"] - row["due_s"] for row in short if row.get("overrun") and row["step"])
    software = sum(row["software_s"] or 0.0 for row in decoded) + late
    if not spent or software <= SOFTWARE_SHARE * spent:
        return []
    return [
        f"about {100 * software / spent:.0f} % of the decode time is this testbed's own work: the blocks are too small "
        "to be paced; use a larger model, slower devices, or `dilation`"
    ]
