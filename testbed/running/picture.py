"""What a run looks like at one of its tokens, from the rows of its folder: for `testbed watch`."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from testbed.errors import TestbedError
from testbed.natural import natural
from testbed.runlog.following import FAULTS, Follower, Row, loss_events

MS = 1e3
RUNNING = "running"
SILENT = ("calibrated", "fleet_started", "migration_done")  # events that say nothing to a watcher


@dataclass
class DeviceNow:
    """One device at a token."""

    name: str
    blocks: int = 0
    came: int = 0  # blocks that came with the last migration
    left: int = 0
    needed_bytes: int | None = None  # by its blocks; the budget is for nothing else
    budget_bytes: int | None = None
    ballast_bytes: int = 0
    alive: bool = True
    asked_bps: dict[str, float] = field(default_factory=dict)  # by direction
    readback_bps: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Told:
    """An event, as a sentence."""

    t_s: float
    text: str
    fault: bool


@dataclass(frozen=True)
class Picture:
    """A run at one of its tokens."""

    experiment: str
    policy: str
    backend: str
    status: str  # as in the summary; `running` before there is one
    done: int  # tokens
    asked: int
    devices: Sequence[DeviceNow]
    latency_ms: Sequence[float]  # of the tokens after the first
    predicted_ms: Sequence[float | None]
    stall_s: float
    moved: int  # blocks so far
    moving: int  # blocks that are on their way
    events: Sequence[Told]
    verdict: str
    text: str


class Text:
    """The text of a run's tokens, decoded once each; the model's own files say how."""

    def __init__(self, manifest: Mapping[str, Any]) -> None:
        self._pieces: list[str] = []
        self._add: Callable[[int], str] | None = _decoder(manifest)

    def until(self, tokens: Sequence[Row]) -> str:
        """The text of these tokens, or their ids if the model's files are not here."""
        if self._add is None:
            return " ".join(str(row["token_id"]) for row in tokens if row["token_id"] is not None)
        for row in tokens[len(self._pieces) :]:
            self._pieces.append("" if row["token_id"] is None else self._add(row["token_id"]))
        return "".join(self._pieces[: len(tokens)])


def _decoder(manifest: Mapping[str, Any]) -> Callable[[int], str] | None:
    from testbed.experiment.prompt import language_for
    from testbed.experiment.schema import Experiment
    from testbed.words.stream import TextStream

    try:
        experiment = Experiment.from_dict(manifest["experiment"])
        language = language_for(experiment)
        tokenizer = language and language.tokenizer_for(experiment.shape.vocab, experiment.shape.name)
    except (TestbedError, KeyError, OSError):
        return None
    return TextStream(tokenizer.decode).add if tokenizer else None


def picture(run: Follower, tokens: int | None = None, text: Text | None = None) -> Picture:
    """The run after so many tokens; None: as far as it has come."""
    every = run.rows["tokens"]
    shown = every if tokens is None else every[:tokens]
    last = len(shown) == len(every)
    now = float("inf") if last else shown[-1]["start_s"] + shown[-1]["latency_s"] if shown else 0.0
    experiment = run.manifest.get("experiment") or {}
    events = [row for row in run.events if row.get("t_s") is not None and row["t_s"] <= now]
    events += [row for row in loss_events(run.rows["faults"], run.rows["recoveries"]) if row["t_s"] <= now]
    events.sort(key=lambda row: float(row["t_s"]))
    decisions = [row for row in run.rows["decisions"] if row["step"] <= len(shown)]
    decoded = [row for row in shown if not row["prefill"]]
    summary = (run.summary or {}) if last else {}
    return Picture(
        experiment=str(run.manifest.get("experiment_name", run.folder.name)),
        policy=str(run.manifest.get("policy", "")),
        backend=str(run.manifest.get("backend", "")),
        status=str(summary.get("status", "unfinished")) if summary else RUNNING,
        done=len(shown),
        asked=int(experiment.get("tokens") or len(every)),
        devices=_devices(run, len(shown), now),
        latency_ms=[MS * row["latency_s"] for row in decoded],
        predicted_ms=[None if row["predicted_s"] is None else MS * row["predicted_s"] for row in decoded],
        stall_s=sum(row["stall_s"] or 0.0 for row in decisions),
        moved=sum(row["moved"] for row in decisions),
        moving=_moving(events),
        events=[_told(row) for row in events if row["kind"] not in SILENT],
        verdict=_verdict(run, summary, decoded, [row for row in run.rows["host"] if row["t_s"] <= now]),
        text=str(summary.get("text") or "") or (text.until(shown) if text is not None else ""),
    )


def _devices(run: Follower, step: int, now: float) -> list[DeviceNow]:
    topology = (run.manifest.get("experiment") or {}).get("topology") or {}
    found = {name: DeviceNow(name) for name in topology.get("devices") or ()}
    placements: dict[int, dict[str, str]] = {}
    for row in run.rows["placements"]:
        if row["step"] <= step:
            placements.setdefault(row["epoch"], {})[row["block"]] = row["device"]
    nothing: dict[str, str] = {}
    whole = max(map(len, placements.values()), default=0)  # blocks; an epoch with fewer has not been read to its end
    known = [placement for _, placement in sorted(placements.items()) if len(placement) == whole]
    *_, before, after = [nothing, nothing, *known]
    for name, count in Counter(after.values()).items():
        found.setdefault(name, DeviceNow(name)).blocks = count
    for block, owner in after.items():
        if before.get(block) not in (None, owner):
            found[owner].came += 1
            found.setdefault(before[block], DeviceNow(before[block])).left += 1
    for (name,), row in _latest(run.rows["devices"], ("device",), now).items():
        device = found.setdefault(name, DeviceNow(name))
        device.needed_bytes, device.budget_bytes = row["predicted_bytes"], row["budget_bytes"]
        device.ballast_bytes, device.alive = row["ballast_bytes"] or 0, row["alive"] is not False
    losses = [row for row in run.rows["faults"] if row["cause"] != "late"]
    for (name,), row in _latest(losses, ("device",), now).items():
        seen = _latest(run.rows["devices"], ("device",), now).get((name,))
        if seen is None or seen["t_s"] <= row["t_s"]:
            found.setdefault(name, DeviceNow(name)).alive = False
    for (name, direction), row in _latest(run.rows["links"], ("device", "direction"), now).items():
        device = found.setdefault(name, DeviceNow(name))
        device.asked_bps[direction], device.readback_bps[direction] = row["requested_bps"], row["readback_bps"]
    return sorted(found.values(), key=lambda device: natural(device.name))


def _latest(rows: Sequence[Row], key: tuple[str, ...], now: float) -> dict[tuple[str, ...], Row]:
    """The last row of each key by the time `now`; rows are in the order of time."""
    until = bisect_right(rows, now, key=lambda row: row["t_s"])
    found: dict[tuple[str, ...], Row] = {}
    for row in reversed(rows[:until]):
        found.setdefault(tuple(row[name] for name in key), row)
    return found


def _moving(events: Sequence[Row]) -> int:
    """The blocks of a migration that has begun and not ended."""
    for row in reversed(events):
        if row["kind"].startswith("migration_"):
            return int(row.get("blocks") or 0) if row["kind"] == "migration_begin" else 0
    return 0


def _told(row: Row) -> Told:
    about = [str(row[key]) for key in ("target", "device", "quantity") if row.get(key) is not None]
    value = row.get("value")
    if isinstance(value, (int, float)):
        about.append(_with_unit(str(row.get("quantity") or ""), value))
    about += [f"{row['blocks']} blocks"] if row.get("blocks") else []
    about += [str(row["reason"])] if row.get("reason") else []
    return Told(float(row["t_s"]), " ".join([row["kind"].replace("_", " "), *about]), row["kind"] in FAULTS)


def _with_unit(quantity: str, value: float) -> str:
    from testbed.units import format_bandwidth, format_bytes, format_compute, format_duration, format_rate

    written: dict[str, Callable[[float], str]] = {
        "up": format_rate, "down": format_rate, "memory": format_bytes, "streaming": format_bandwidth,
        "compute": format_compute, "up_delay": format_duration, "down_delay": format_duration,
    }  # fmt: skip
    return written[quantity](value) if quantity in written else f"{value:g}"


def _verdict(run: Follower, summary: Row, decoded: Sequence[Row], host: Sequence[Row]) -> str:
    """The verdict at the end, and before it what it will depend on."""
    if run.manifest.get("provenance") == "simulated":
        return "simulated: nothing was measured"
    verdict = summary.get("verdict")
    if isinstance(verdict, Mapping):
        reasons = "; ".join(str(reason) for reason in verdict.get("reasons") or ())
        return "faithful" if verdict.get("ok") else f"not faithful: {reasons}"
    errors = [
        abs(row["predicted_s"] / row["latency_s"] - 1) for row in decoded if row["predicted_s"] and row["latency_s"]
    ]
    told = [f"predictions are off by {median(errors):.1%}"] if errors else []
    if host:
        told.append(f"other programs took {max(row['others_share'] for row in host):.0%} of the cores at most")
    return f"so far: {', '.join(told)}" if told else "so far: nothing to judge"
