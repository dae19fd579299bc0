"""Writes a run in Chrome's trace event format, which Perfetto and chrome://tracing read.

The format is JSON: an object with the list `traceEvents`. A process is a group of tracks, and a thread is a track. Here
each device is a process with a track for what it computes, and one for each direction of its messages and of its
migrations. One more process has the run's tokens, decisions and changes. Times are emulated microseconds since token 0.

Slices of one track must not overlap. Messages do, so they take as many lanes as they need. Arrows (flows) lead from a
message or a migration at its sender to the same at its receiver. Source: "Trace Event Format", Google, 2016.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from testbed.files import make_folder, refuse_special, unwritable
from testbed.runlog.folder import EVENTS, read_lines, read_manifest, read_rows, read_summary
from testbed.runlog.following import FAULTS, loss_events

Row = Mapping[str, Any]

RUN = 1  # the process with what concerns the whole run; devices follow
TOKENS, DECISIONS, CHANGES = 1, 2, 3  # its tracks
FIRST_TRACK = 1  # of a device
KINDS = ("computes", "sends (up)", "receives (down)", "migrates out", "migrates in")
"""The kinds of tracks of a device, in the order in which they are shown."""

MEMORY = {"ledger_bytes": "in use", "predicted_bytes": "blocks need", "budget_bytes": "budget"}
"""Column of the table `devices` -> its name in the graph of a device's memory."""

MOST_LANES = 10_000  # of one kind, for the order of tracks
NS_PER_S = 1e9
encode = msgspec.json.Encoder().encode


def write_trace(
    folder: Path, out: Path, first: int = 0, last: int | None = None, spans: Iterable[Row] | None = None
) -> dict[str, int]:
    """Write the tokens from `first` to `last` of a run as trace events; returns how many things of each kind it has.

    `spans` replace those of the run's table. Raises ConfigError for a damaged run folder and for an `out` that is no
    file or cannot be written, and EnvironmentLacks if the disk takes no more.
    """
    trace = _Trace(folder, first, last, spans)
    counts: dict[str, int] = defaultdict(int)
    refuse_special(out)
    make_folder(out.parent)
    half = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        with half.open("wb") as file:
            file.write(b'{"displayTimeUnit":"ms","otherData":' + encode(trace.about()) + b',"traceEvents":[')
            separator = b"\n"
            for event in trace.events():
                file.write(separator + encode(event))
                separator = b",\n"
                if _stands_for_itself(event):
                    counts[event["cat"]] += 1
            file.write(b"\n]}\n")
        half.replace(out)
    except OSError as error:
        raise unwritable(out, error) from error
    finally:
        with suppress(OSError):
            half.unlink(missing_ok=True)
    return dict(counts)


def _stands_for_itself(event: Row) -> bool:
    """Whether this is the one event that is counted of those that show the same thing."""
    if event.get("cat") in ("message", "migration"):
        return bool(event["ph"] == "s")
    return event["ph"] == "X" or (event["ph"] == "i" and event["pid"] == RUN)


class _Trace:
    """The events of a run, of some of its tokens."""

    def __init__(self, folder: Path, first: int, last: int | None, spans: Iterable[Row] | None) -> None:
        self._folder = folder
        self._spans = read_rows(folder, "spans") if spans is None else spans
        self._tokens = [
            row for row in read_rows(folder, "tokens") if first <= row["step"] and (last is None or row["step"] <= last)
        ]
        everything = first == 0 and last is None
        self._steps = {row["step"] for row in self._tokens}
        ends = [row["start_s"] + row["latency_s"] for row in self._tokens]
        self._since = float("-inf") if everything else min((row["start_s"] for row in self._tokens), default=0.0)
        self._until = float("inf") if everything else max(ends, default=0.0)
        self._processes: dict[str, int] = {}
        self._lanes: dict[tuple[int, str], list[list[int]]] = {}  # (process, kind) -> [free from, track] of each lane
        self._tracks: dict[int, int] = defaultdict(int)  # process -> its last track
        self._flows = 0

    def about(self) -> dict[str, Any]:
        """What the trace is of."""
        manifest, summary = read_manifest(self._folder), read_summary(self._folder) or {}
        facts = {
            key: manifest.get(key) for key in ("run", "experiment_name", "policy", "backend", "seed", "provenance")
        }
        about = {"unit": "emulated time since token 0"} | facts | {"status": summary.get("status", "unfinished")}
        return _given(about)

    def events(self) -> Iterator[dict[str, Any]]:
        """All events; names of tracks come before what is on them."""
        yield from self._track(RUN, TOKENS, "tokens")
        yield from self._track(RUN, DECISIONS, "decisions")
        yield from self._track(RUN, CHANGES, "traces and faults")
        yield _named("process_name", RUN, 0, {"name": "run"})
        yield from self._token_events()
        yield from self._span_events()
        yield from self._migration_events()
        yield from self._decision_events()
        yield from self._told_events()
        yield from self._counter_events()

    def _in_time(self, t_s: float) -> bool:
        return self._since <= t_s <= self._until

    def _track(self, process: int, number: int, name: str, order: int = 0) -> Iterator[dict[str, Any]]:
        yield _named("thread_name", process, number, {"name": name})
        yield _named("thread_sort_index", process, number, {"sort_index": order or number})

    def _device(self, name: str) -> tuple[int, list[dict[str, Any]]]:
        """A device's process, and the events that name it when it is first met."""
        if name in self._processes:
            return self._processes[name], []
        process = self._processes[name] = RUN + 1 + len(self._processes)
        return process, [
            _named("process_name", process, 0, {"name": f"device {name}"}),
            _named("process_sort_index", process, 0, {"sort_index": process}),
        ]

    def _lane(self, process: int, kind: str, start_s: float, end_s: float) -> tuple[int, list[dict[str, Any]]]:
        """The first track of a kind that is free for this time, and the events that name it if it is new."""
        begin, end = _ns(start_s), _ns(end_s)
        lanes = self._lanes.setdefault((process, kind), [])
        for lane in lanes:
            if lane[0] <= begin:
                lane[0] = end
                return lane[1], []
        self._tracks[process] += 1
        track = self._tracks[process]
        lanes.append([end, track])
        name = kind if len(lanes) == 1 else f"{kind} ({len(lanes)})"
        return track, list(self._track(process, track, name, KINDS.index(kind) * MOST_LANES + len(lanes)))

    def _token_events(self) -> Iterator[dict[str, Any]]:
        for row in self._tokens:
            about = {key: row[key] for key in ("epoch", "token_id", "predicted_s", "wire_bytes")}
            name = "prefill" if row["prefill"] else f"token {row['step']}"
            yield _slice("token", name, RUN, TOKENS, row["start_s"], row["start_s"] + row["latency_s"], about)

    def _span_events(self) -> Iterator[dict[str, Any]]:
        """Operations and messages, in the order in which they began, as lanes need."""
        spans = [row for row in self._spans if row["step"] in self._steps]
        for row in sorted(spans, key=lambda row: (row["start_s"], row["end_s"])):
            process, naming = self._device(row["device"])
            yield from naming
            about = {"token": row["step"], "bytes": row["bytes"]}
            if row["kind"] == "block":
                about |= {"flops": row.get("flops"), "overrun": row["overrun"], "due_s": row["due_s"]}
                lane, more = self._lane(process, "computes", row["start_s"], row["end_s"])
                yield from more
                yield _slice("block", str(row["block"]), process, lane, row["start_s"], row["end_s"], about)
            else:
                yield from self._sent(
                    "message", str(row["block"]), row, ("sends (up)", "receives (down)"), row["peer"], about
                )

    def _migration_events(self) -> Iterator[dict[str, Any]]:
        rows = [row for row in read_rows(self._folder, "migrations") if self._in_time(row["start_s"])]
        for row in sorted(rows, key=lambda row: (row["start_s"], row["last_byte_s"] or 0.0)):
            about = {key: row[key] for key in ("epoch", "bytes", "outcome", "predicted_s", "weights_bytes_loaded")}
            times = {"device": row["src"], "start_s": row["start_s"], "end_s": row["last_byte_s"] or row["start_s"]}
            yield from self._sent("migration", row["block"], times, ("migrates out", "migrates in"), row["dst"], about)

    def _sent(
        self, category: str, name: str, row: Row, kinds: tuple[str, str], receiver: str, about: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        """A slice at the sender, one at the receiver, and an arrow between them."""
        self._flows += 1
        ends = ((row["device"], f"{name} to {receiver}"), (receiver, f"{name} from {row['device']}"))
        for (device, told), kind, phase in zip(ends, kinds, ("s", "f"), strict=True):
            process, naming = self._device(device)
            lane, more = self._lane(process, kind, row["start_s"], row["end_s"])
            yield from (*naming, *more)
            yield _slice(category, told, process, lane, row["start_s"], row["end_s"], about)
            arrow = {"ph": phase, "cat": category, "name": name, "id": self._flows, "pid": process, "tid": lane}
            yield arrow | {"ts": _ns(row["start_s"]) / 1e3} | ({"bp": "e"} if phase == "f" else {})

    def _decision_events(self) -> Iterator[dict[str, Any]]:
        starts = {row["step"]: row["start_s"] for row in self._tokens}
        for row in read_rows(self._folder, "decisions"):
            t_s = starts.get(row["step"]) if row["t_s"] is None else row["t_s"]
            if t_s is not None and self._in_time(t_s):
                about = {key: value for key, value in row.items() if key not in ("t_s", "wall_s")}
                told = f"{row['policy']}: {row['moved']} moved" if row["moved"] else f"{row['policy']}: stay"
                yield _instant("decision", told, RUN, DECISIONS, t_s, about)

    def _told_events(self) -> Iterator[dict[str, Any]]:
        """Changes of traces, and faults, also at the device that they concern."""
        losses = loss_events(read_rows(self._folder, "faults"), read_rows(self._folder, "recoveries"))
        for row in (*read_lines(self._folder / EVENTS), *losses):
            t_s, kind = row.get("t_s"), row["kind"]
            if t_s is None or not self._in_time(t_s):
                continue
            about = {key: value for key, value in row.items() if key not in ("t_s", "kind", "wall_s")}
            category = "fault" if kind in FAULTS else "trace step" if kind == "trace_applied" else "event"
            told = " ".join(str(row[key]) for key in ("target", "quantity") if row.get(key)) or kind
            name = f"{kind}: {told}" if told != kind else kind
            yield _instant(category, name, RUN, CHANGES, t_s, about)
            device = row.get("device") or str(row.get("target", "")).partition("/")[2]
            if device in self._processes:
                yield _instant(category, name, self._processes[device], FIRST_TRACK, t_s, about)

    def _counter_events(self) -> Iterator[dict[str, Any]]:
        """Rates of links and memory of devices, as graphs; a link that joins no single device is the run's."""
        for row in self._changed("links", ("device", "direction"), ("requested_bps", "delay_s")):
            process = self._processes.get(row["device"], RUN)
            name = f"link {row['device']} {row['direction']} (Mbit/s)"
            yield _counter(name, process, row["t_s"], {"asked": row["requested_bps"] / 1e6})
        for row in self._changed("devices", ("device",), tuple(MEMORY)):
            values = {told: row[key] for key, told in MEMORY.items() if row[key] is not None}
            if values:
                process = self._processes.get(row["device"], RUN)
                name = f"memory of {row['device']} (MiB)"
                yield _counter(name, process, row["t_s"], {key: size / 2**20 for key, size in values.items()})

    def _changed(self, table: str, key: tuple[str, ...], values: tuple[str, ...]) -> Iterable[Row]:
        """The rows of a table in which a value differs from the last row with the same key."""
        last: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        for row in sorted(read_rows(self._folder, table), key=lambda row: row["t_s"]):
            which, now = tuple(row[name] for name in key), tuple(row[name] for name in values)
            if self._in_time(row["t_s"]) and last.get(which) != now:
                last[which] = now
                yield row


def _ns(seconds: float) -> int:
    """Whole nanoseconds. What is read as such cannot overlap by a rounding."""
    return round(seconds * NS_PER_S)


def _given(about: Row) -> dict[str, Any]:
    return {key: value for key, value in about.items() if value is not None}


def _slice(
    category: str, name: str, process: int, track: int, start_s: float, end_s: float, about: Row
) -> dict[str, Any]:
    begin = _ns(start_s)
    return {
        "ph": "X", "cat": category, "name": name, "pid": process, "tid": track, "ts": begin / 1e3,
        "dur": (_ns(end_s) - begin) / 1e3, "args": _given(about),
    }  # fmt: skip


def _instant(category: str, name: str, process: int, track: int, t_s: float, about: Row) -> dict[str, Any]:
    return {
        "ph": "i", "s": "t", "cat": category, "name": name, "pid": process, "tid": track, "ts": _ns(t_s) / 1e3,
        "args": _given(about),
    }  # fmt: skip


def _counter(name: str, process: int, t_s: float, values: Mapping[str, float]) -> dict[str, Any]:
    return {
        "ph": "C", "cat": "counter", "name": name, "pid": process, "tid": 0, "ts": _ns(t_s) / 1e3, "args": dict(values)
    }  # fmt: skip


def _named(what: str, process: int, track: int, about: dict[str, Any]) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": process, "tid": track, "args": about}
