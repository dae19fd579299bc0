"""The rules of Chrome's trace event format, as far as our files use it ("Trace Event Format", Google, 2016)."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import Any

METADATA = {
    "process_name": "name", "thread_name": "name", "process_sort_index": "sort_index",
    "thread_sort_index": "sort_index",
}  # fmt: skip
Event = dict[str, Any]


def broken_rules(document: Any) -> list[str]:
    """What is wrong with a document; nothing if it keeps all rules."""
    if not isinstance(document, dict) or not isinstance(document.get("traceEvents"), list):
        return ["the document is no object with the list traceEvents"]
    events: list[Event] = document["traceEvents"]
    broken = [] if document.get("displayTimeUnit") in (None, "ms", "ns") else ["displayTimeUnit is neither ms nor ns"]
    for event in events:
        broken += [f"{told}: {event}" for told in _of_one(event)]
    return broken or [*_tracks(events), *_nesting(events), *_arrows(events)]


def _of_one(event: Event) -> list[str]:
    phase, broken = event.get("ph"), []
    if not (isinstance(event.get("pid"), int) and isinstance(event.get("tid"), int)):
        broken.append("pid and tid must be whole numbers")
    if not (isinstance(event.get("name"), str) and event["name"]):
        broken.append("an event needs a name")
    if phase == "M":
        key = METADATA.get(event.get("name", ""))
        kind = str if key == "name" else int
        if key is None or not isinstance(event.get("args", {}).get(key), kind):
            broken.append("metadata of an unknown kind or without its argument")
        return broken
    if not isinstance(event.get("ts"), (int, float)) or event["ts"] < 0:
        broken.append("ts must be a number of microseconds from 0 on")
    if not isinstance(event.get("cat"), str):
        broken.append("an event needs a category")
    if phase == "X" and not (isinstance(event.get("dur"), (int, float)) and event["dur"] >= 0):
        broken.append("a complete event needs a duration")
    elif phase == "i" and event.get("s") not in ("g", "p", "t"):
        broken.append("an instant event needs a scope")
    elif phase in ("s", "f") and not isinstance(event.get("id"), (int, str)):
        broken.append("a flow event needs an id")
    elif phase == "f" and event.get("bp") != "e":
        broken.append("a flow must end in the slice around it")
    elif phase == "C" and not all(isinstance(value, (int, float)) for value in event.get("args", {"": ""}).values()):
        broken.append("a counter needs numbers")
    elif phase not in ("X", "i", "s", "f", "C"):
        broken.append("an unknown phase")
    return broken


def _tracks(events: list[Event]) -> list[str]:
    """Every process and every track with slices or instants has exactly one name."""
    named: dict[tuple[Any, ...], int] = defaultdict(int)
    for event in events:
        if event["name"] == "process_name":
            named[event["pid"],] += 1
        if event["name"] == "thread_name":
            named[event["pid"], event["tid"]] += 1
    used = {(event["pid"],) for event in events}
    used |= {(event["pid"], event["tid"]) for event in events if event["ph"] in "Xi"}
    return [f"{track} has {named[track]} names" for track in used if named[track] != 1]


def _slices(events: list[Event]) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """(begin, end) in nanoseconds of the slices of each track, in order."""
    found: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            begin = round(event["ts"] * 1e3)
            found[event["pid"], event["tid"]].append((begin, begin + round(event["dur"] * 1e3)))
    return {track: sorted(slices) for track, slices in found.items()}


def _nesting(events: list[Event]) -> list[str]:
    """No slice of a track begins before the one before it has ended: ours never nest."""
    return [
        f"track {track}: a slice begins at {following[0]} ns, before {one[1]} ns"
        for track, slices in _slices(events).items()
        for one, following in itertools.pairwise(slices)
        if following[0] < one[1]
    ]


def _arrows(events: list[Event]) -> list[str]:
    """Each flow begins once and ends once, later, and both in slices."""
    ends: dict[tuple[Any, ...], dict[str, Event]] = defaultdict(dict)
    broken = []
    for event in events:
        if event["ph"] in ("s", "f"):
            if event["ph"] in ends[event["cat"], event["name"], event["id"]]:
                broken.append(f"a flow begins or ends twice: {event}")
            ends[event["cat"], event["name"], event["id"]][event["ph"]] = event
    slices = {track: set(found) for track, found in _slices(events).items()}
    starts = {track: {begin for begin, _ in found} for track, found in slices.items()}
    for key, pair in ends.items():
        if set(pair) != {"s", "f"} or pair["s"]["ts"] > pair["f"]["ts"]:
            broken.append(f"flow {key} does not lead from a beginning to an end")
        for event in pair.values():
            if round(event["ts"] * 1e3) not in starts.get((event["pid"], event["tid"]), ()):
                broken.append(f"no slice around {event}")
    return broken
