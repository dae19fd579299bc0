"""Whether a run's emulation was faithful, judged by what the run itself recorded.

Each reason names a device and what was off, so that a researcher can act on it. Notes say what a reader must know
although it does not make the run wrong, such as memory limits that no kernel enforces.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from testbed.controller.host_contention import contention
from testbed.controller.host_speed import EXCESS_SHARE
from testbed.controller.link_errors import DELAY_FLOORS, DELAY_TOLERANCE, wrong_links
from testbed.controller.startup_calibration import Calibrated
from testbed.controller.worst_first import worst_first
from testbed.device_model import PACED_FROM_S
from testbed.units import format_duration, format_rate
from testbed.wire import FRAME_BYTES, TCP_SHARE

Row = Mapping[str, Any]

READBACK_TOLERANCE = 1e-3
SHAPED_AT_MOST = 1.03  # times TCP_SHARE; above it the link was not shaped
JUDGED_FROM_S = 0.1  # of the rate; in shorter transfers the bucket's first burst weighs too much
AT_ONCE_BYTES = 4 * FRAME_BYTES  # a slow link's bucket passes up to three frames at once; times begin after the first
PROBED_AT_LEAST = 0.75  # times TCP_SHARE; a probe is short, so this catches only a link that is badly off
DELAY_TOLERANCE_S = 1e-3  # between the measured and the wanted delay,
LAG_S = 0.05  # how late a change on the time clock may be; measured: 99 % within 4 ms, the latest 24 ms
DROPPED_SHARE = 0.01  # the share of a queue's frames that may be lost where nothing asks for loss
LATE_FROM = 5  # a device with fewer late operations is never called too slow
FLOORS_PER_OPERATION = 20  # an operation must last so many pacing floors to be judged
JUDGED_SPAN_S = 0.5  # shorter intervals say little about waiting
WAIT_SHARE = 0.10  # a device may wait for the host's CPU for this share of an interval,
WAIT_FLOORS = 3  # or so many times as long as during the calibration,
WAIT_MOST = 0.20  # but never for more than this share
SHARED_HOST = "other emulated runs may have used this host at the same time (`--share-host`)"
SOFTWARE_SHARE = 0.10  # of the decode time; above it the figures describe this testbed rather than the devices


@dataclass(frozen=True)
class Asked:
    """What was asked of a run that its rows do not tell."""

    paced: bool = True
    time_clock: bool = False
    shared_host: bool = False
    lossy: Collection[str] = ()  # links that are to lose packets, by the topology or a trace
    shaken: bool = False  # whether delays are to vary, so that single round trips say little


def verdict(
    kept: Mapping[str, Iterable[Row]], facts: Mapping[str, Any], calibrated: Calibrated, asked: Asked
) -> dict[str, Any]:
    """`{ok, reasons, notes}` from a run's rows by table. The rows are read several times."""
    floor_s = max(PACED_FROM_S, FLOORS_PER_OPERATION * calibrated.pacing_floor_s)
    taking, noticed = contention(kept["host"], kept["waits"])
    dropping, dropped = _drops(kept["links"], asked.lossy)
    reasons = [*taking, *_shaping(kept["links"]), *_rates(kept["rates"], asked.lossy), *dropping]
    reasons += [] if asked.shaken else _delays(calibrated)
    reasons += wrong_links(list(kept.get("delays", ())), DELAY_FLOORS * calibrated.pacing_floor_s)
    if asked.time_clock:
        reasons += _lags(kept["links"])
    if asked.paced:
        reasons += [*_overruns(kept["spans"], floor_s, calibrated.pacing_floor_s), *_waits(kept["waits"], calibrated)]
    for device, (planned, found) in facts.get("memory_limits", {}).items():
        if planned != found:
            reasons.append(f"device {device}: the memory limit was set to {planned} bytes and the kernel says {found}")
    notes = [f"memory limits are {facts['memory']}"] if str(facts.get("memory", "")).startswith("not enforced") else []
    notes += [SHARED_HOST] if asked.shared_host else []
    notes += [*noticed, *dropped, *_software(kept["tokens"], kept["spans"], floor_s), *facts.get("notes", ())]
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


def _rates(rates: Iterable[Row], lossy: Collection[str]) -> list[str]:
    """Paths that were not shaped, and probes that were too slow although nothing was to be lost on their way."""
    reasons = []
    for row in rates:
        if row["bytes"] * 8 < JUDGED_FROM_S * row["requested_bps"] or not row["requested_bps"]:
            continue
        share = row["achieved_bps"] / (row["requested_bps"] * TCP_SHARE)
        path = f"path {row['device']} to {row['peer']}"
        if share * (1 - AT_ONCE_BYTES / row["bytes"]) > SHAPED_AT_MOST:
            reasons.append(
                f"{path}: a {row['how']} reached {format_rate(row['achieved_bps'])} on a link of "
                f"{format_rate(row['requested_bps'])}: it was not shaped"
            )
        elif row["how"] == "probe" and share < PROBED_AT_LEAST and not {row["device"], row["peer"]} & {*lossy}:
            reasons.append(
                f"{path}: a probe reached only {format_rate(row['achieved_bps'])} of "
                f"{format_rate(row['requested_bps'])}: this host is too busy or too slow for that rate"
            )
    return reasons


def _delays(calibrated: Calibrated) -> list[str]:
    return [
        f"path {row.sender} to {row.receiver}: a delay of {format_duration(row.measured_s)} was measured where "
        f"{format_duration(row.expected_s)} is wanted: this host is too busy to keep delays"
        for row in calibrated.delays
        if abs(row.measured_s - row.expected_s) > max(DELAY_TOLERANCE_S, DELAY_TOLERANCE * row.expected_s)
    ]


def _lags(links: Iterable[Row]) -> list[str]:
    """Changes that came too late on the time clock. On the token clock nothing goes on meanwhile."""
    late: dict[str, float] = {}
    for row in links:
        if (row.get("lag_s") or 0.0) > LAG_S:
            late[row["device"]] = max(row["lag_s"], late.get(row["device"], 0.0))
    if not late:
        return []
    told = worst_first("link", {link: (lag_s, f"by {format_duration(lag_s)}") for link, lag_s in late.items()})
    return [f"changes of the trace came late: {told}: this host is too busy for that trace; use `dilation: 2`"]


def _drops(links: Iterable[Row], lossy: Collection[str]) -> tuple[list[str], list[str]]:
    """(reasons, notes) on frames that queues dropped. Links with an outage or a wanted loss are excused."""
    last: dict[tuple[str, str], Row] = {}
    outages = set()
    for row in links:
        if not row["requested_bps"]:
            outages.add(row["device"])
        if row.get("dropped"):
            last[row["device"], row["direction"]] = row
    reasons, notes = [], []
    for (device, direction), row in last.items():
        if device in outages or device in lossy:
            continue
        share = row["dropped"] / (row["dropped"] + row["sent_bytes"] / FRAME_BYTES)
        told = f"the queue of link {device} {direction} dropped {row['dropped']} frames"
        if share > DROPPED_SHARE:
            reasons.append(f"{told} ({100 * share:.1f} %) and nothing asks for that: its times are those of repeats")
        else:
            notes.append(f"{told}; TCP sent them again")
    return reasons, notes


def _overruns(spans: Iterable[Row], from_s: float, pacing_floor_s: float) -> list[str]:
    """Devices that are too slow here. An operation may be late by EXCESS_SHARE or the pacing floor, the larger one."""
    late: dict[str, int] = defaultdict(int)
    count: dict[str, int] = defaultdict(int)
    excess_s: dict[str, float] = defaultdict(float)
    due_s: dict[str, float] = defaultdict(float)
    allowed_s: dict[str, float] = defaultdict(float)
    for row in spans:
        if row["kind"] == "block" and row["due_s"] >= from_s:
            count[row["device"]] += 1
            due_s[row["device"]] += row["due_s"]
            allowed_s[row["device"]] += max(EXCESS_SHARE * row["due_s"], pacing_floor_s)
            late[row["device"]] += bool(row.get("overrun"))
            excess_s[row["device"]] += max(0.0, row["end_s"] - row["start_s"] - row["due_s"])
    shares = {
        device: (excess_s[device] / due_s[device], f"{late[device]} of {count[device]} late")
        for device in count
        if excess_s[device] > allowed_s[device] and late[device] >= LATE_FROM
    }
    if not shares:
        return []
    told = worst_first(
        "device", {device: (share, f"{100 * share:.0f} % ({what})") for device, (share, what) in shares.items()}
    )
    return [
        f"operations took longer on this host than on the emulated device: {told}: use slower devices, fewer of them, "
        "or `dilation: 2`"
    ]


def _waits(waits: Iterable[Row], calibrated: Calibrated) -> list[str]:
    allowed = max(WAIT_SHARE, min(WAIT_MOST, WAIT_FLOORS * calibrated.wait_share))
    worst: dict[str, tuple[float, Row]] = {}
    for row in waits:
        if row["span_s"] < JUDGED_SPAN_S:
            continue
        share = row["wait_s"] / row["span_s"]
        if share > allowed and share > worst.get(row["device"], (0.0, row))[0]:
            worst[row["device"]] = (share, row)
    if not worst:
        return []
    told = worst_first(
        "device",
        {
            device: (share, f"waited {100 * share:.0f} % of tokens {row['first']}-{row['last']}")
            for device, (share, row) in worst.items()
        },
    )
    return [f"{told} for the host's CPU: stop what else runs here, use fewer devices, slower ones, or `dilation: 2`"]


def _software(tokens: Iterable[Row], spans: Iterable[Row], floor_s: float) -> list[str]:
    """A note where blocks are so small that this testbed's own work between them is noticeable."""
    spent = software = 0.0
    for row in tokens:
        if not row["prefill"]:
            spent += row["latency_s"]
            software += row["software_s"] or 0.0
    for row in spans:
        if row["kind"] == "block" and row["due_s"] < floor_s and row.get("overrun") and row["step"]:
            software += row["end_s"] - row["start_s"] - row["due_s"]
    if not spent or software <= SOFTWARE_SHARE * spent:
        return []
    return [
        f"about {100 * software / spent:.0f} % of the decode time is this testbed's own work: the blocks are too small "
        "to be paced; use a larger model, slower devices, or `dilation`"
    ]
