"""Converts the entries of an experiment file or an override into the values of the experiment's schema.

Paths are replaced by the contents of their files. Partitions, durations and traces become objects. Each mistake is an
error of one sentence. This module checks each entry alone; the schema checks how the entries fit together.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

from testbed.bundled import bundled, find_file
from testbed.errors import ConfigError
from testbed.files import read_text
from testbed.placement.blocks import Exchange, Partition
from testbed.strict_yaml import read_mapping, refuse_unknown_keys, require_mapping, shown
from testbed.topologies.model import Topology
from testbed.topologies.shapes import WIFI
from testbed.traces.model import Trace, TraceSet
from testbed.units import parse_duration

# Keys of a section that exclude each other. An override that sets one drops the others.
ALTERNATIVES = {"model": ("preset", "path"), "prompt": ("text", "file", "chat", "ids")}
_TRACE_KEYS = (
    "path", "format", "target", "direction", "end", "period", "bin", "time", "step", "down", "up", "time_unit",
    "time_format", "rate_unit", "delimiter", "decimal", "missing", "group", "offset", "clip", "scale",
)  # fmt: skip
_TRACE_DURATIONS = ("bin", "step", "offset")


def inline_files(raw: dict[str, Any], base: Path, origin: str) -> str | None:
    """Replace paths, which are relative to `base`, in place by their contents; returns the topology's file or None."""
    if isinstance(raw.get("prompt"), str):
        raw["prompt"] = {"text": raw["prompt"]}
    for section, what in (("model", "model"), ("prompt", "prompt, if it is not text,")):
        if section in raw:
            if section == "model" and isinstance(raw[section], str):
                raise ConfigError(
                    f"{origin}: model is {shown(raw[section])}, but it has keys: for a preset set "
                    f"`model.preset={raw[section]}`, for a folder or a GGUF file `model.path`"
                )
            raw[section] = require_mapping(raw[section], origin, what)
    if isinstance(raw.get("model", {}).get("path"), str):
        path = raw["model"]["path"]
        try:
            raw["model"]["path"] = str((base / path).resolve())
        except (OSError, RuntimeError, ValueError) as error:  # links in a circle; a zero byte
            raise ConfigError(f"{origin}: model.path is {shown(path)}, which is no path: {error}") from error
    if "file" in raw.get("prompt", {}):
        raw["prompt"]["text"] = read_text(_path(raw["prompt"].pop("file"), base, f"{origin}: prompt.file"))
    if isinstance(raw.get("prompt", {}).get("chat"), str):
        raw["prompt"]["chat"] = [{"role": "user", "content": raw["prompt"]["chat"]}]
    if isinstance(raw.get("traces"), list):
        raw["traces"] = [_anchored(entry, base) for entry in raw["traces"]]
    if not isinstance(raw.get("topology"), str):
        return None
    path = find_file("topology", raw["topology"], base, f"{origin}: topology")
    raw["topology"] = {"name": path.stem} | read_mapping(path)
    return str(path)


def _anchored(entry: Any, base: Path) -> Any:
    """A trace entry whose path no longer depends on the folder of the file that contains it."""
    if isinstance(entry, str):
        entry = {"path": entry}
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        return entry
    path = _joined(base, entry["path"])
    if not os.path.lexists(path):  # an override may yet replace it, so a path to nothing is no error here
        path = str(bundled("trace").get(entry["path"], path))
    return entry | {"path": path}


def _joined(base: Path, path: str) -> str:
    return os.path.normpath(base / path)


def _path(value: object, base: Path, where: str) -> Path:
    if not isinstance(value, str):
        raise ConfigError(f"{where} is {shown(value)}, but it must be a path")
    path = Path(_joined(base, value))
    if not path.is_file():
        raise ConfigError(f"{where} is {path}, but there is no such file")
    return path


def refuse_other_kinds(raw: Mapping[str, Any], path: Path) -> None:
    """Raise ConfigError for a file that is a sweep or a topology, and say what to do with it."""
    if "experiment" in raw and "over" in raw:
        raise ConfigError(f"{path} is a sweep, not an experiment: run it with `testbed sweep {path}`")
    if "devices" in raw and "model" not in raw:
        raise ConfigError(
            f"{path} is a topology, not an experiment: give it to one, as `testbed replay quickstart --set "
            f"topology={path}` does"
        )


def drop_alternatives(raw: dict[str, Any], key: tuple[str, ...]) -> None:
    """Drop the keys that an override excludes: `model.path=…` drops a preset, and `prompt.ids=…` a text."""
    choices = ALTERNATIVES.get(key[0], ())
    if len(key) > 1 and key[1] in choices and isinstance(raw.get(key[0]), dict):
        raw[key[0]] = {name: value for name, value in raw[key[0]].items() if name not in choices}


def read_partition(entry: object, origin: str) -> Partition:
    """The partition of the model that an entry describes; raises ConfigError naming `origin` and the key."""
    fields = require_mapping(entry, origin, "partition")
    refuse_unknown_keys(fields, ("ffn_shards", "proj_rows", "vocab_shards", "exchange"), origin, "partition")
    shards, rows = fields.get("ffn_shards", 1), fields.get("proj_rows", False)
    if type(shards) is not int or shards < 1 or shards & (shards - 1):
        raise ConfigError(
            f"{origin}: partition.ffn_shards is {shown(shards)}, but it must be a power of two, such as 1, 2 or 4"
        )
    if not isinstance(rows, bool):
        raise ConfigError(f"{origin}: partition.proj_rows is {shown(rows)}, but it must be true or false")
    vocab = fields.get("vocab_shards", 1)
    if type(vocab) is not int or vocab < 1:
        raise ConfigError(
            f"{origin}: partition.vocab_shards is {shown(vocab)}, but it must be a whole number of at least 1"
        )
    exchange = fields.get("exchange", "hub")
    if exchange not in get_args(Exchange):
        raise ConfigError(f"{origin}: partition.exchange is {shown(exchange)}, but it must be hub or all-to-all")
    if exchange == "all-to-all" and (shards == 1 or not rows):
        raise ConfigError(
            f"{origin}: partition.exchange is 'all-to-all', but ffn_shards is {shards} and proj_rows "
            f"{str(rows).lower()}: devices can only add up for themselves where every half ends in partial sums, with "
            "ffn_shards of 2 or more and proj_rows: true"
        )
    return Partition(shards, rows, vocab, exchange)


def read_duration(text: str, where: str) -> float:
    """The seconds in a text like `500 ms`; raises ConfigError naming `where`."""
    try:
        return parse_duration(text)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def read_traces(
    entries: object, topology: Topology, origin: str, generate: Callable[[Mapping[str, Any], int, str], Trace]
) -> TraceSet:
    """The traces that a list of entries describes; raises ConfigError naming `origin` and the entry.

    Each trace must drive links and devices of the topology. `generate` makes the trace of an entry with the key
    `generate`, from the entry, its index and its name in errors.
    """
    if not isinstance(entries, list):
        raise ConfigError(
            f"{origin}: traces must be a list of files or names, like [link-collapse], not {shown(entries)}"
        )
    traces = []
    for index, entry in enumerate(entries):
        where = f"{origin}: traces.{index}"
        drawn = isinstance(entry, Mapping) and "generate" in entry
        traces.append(generate(entry, index, where) if drawn else _trace(entry, where))
    _check_targets(traces, topology, origin)
    try:
        return TraceSet(tuple(traces))
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from error


def _check_targets(traces: list[Trace], topology: Topology, origin: str) -> None:
    """Raise ConfigError if a trace drives a device or link that the topology does not have."""
    devices = [device.name for device in topology.devices]
    known = {"device": ("devices", devices), "link": ("links", [cable.name for cable in topology.links])}
    if topology.shape == "star":  # the links of a star have the devices' names
        known["link"] = known["device"]
    for trace in traces:
        if topology.shape == WIFI:
            _refuse_one_direction(trace, topology, origin)
        for target in sorted({target for target, _ in trace.rows}):
            kind, _, name = target.partition("/")
            what, names = known[kind]
            if name not in names:
                raise ConfigError(
                    f"{origin}: trace {trace.name} drives {target}, but topology {topology.name} has only the "
                    f"{what} {', '.join(names)}"
                )


def _refuse_one_direction(trace: Trace, topology: Topology, origin: str) -> None:
    """Raise ConfigError if a trace drives one direction alone: a wifi's medium is one queue for both."""
    for both in ("rate", "delay"):
        one, other = ("up", "down") if both == "rate" else ("up_delay", "down_delay")
        for target, quantity in trace.rows:
            if quantity in (one, other) and (target, one if quantity == other else other) not in trace.rows:
                raise ConfigError(
                    f"{origin}: trace {trace.name} drives {quantity} of {target}, but topology {topology.name} is a "
                    f"wifi, whose medium is alike in both directions: give {both}"
                )


def _trace(entry: object, where: str) -> Trace:
    """The trace of one entry, which holds a trace as `to_dict` writes it, or a file and the options to read it."""
    if isinstance(entry, Mapping) and "changes" in entry:
        return Trace.from_dict(entry)
    options = require_mapping(entry, where, "a trace")
    refuse_unknown_keys(options, _TRACE_KEYS, where, "a trace")
    for key in ("path", "format", "target", "direction", "end"):
        if not isinstance(options.get(key, ""), str) or (key == "path" and not options.get(key)):
            raise ConfigError(f"{where}.{key} is {shown(options.get(key))}, but it must be text")
    for key in _TRACE_DURATIONS:
        if isinstance(options.get(key), str):
            options[key] = read_duration(options[key], f"{where}.{key}")
    if options.get("path") is not None:
        options["path"] = str(find_file("trace", options["path"], where=where))
    window = options.pop("bin", None)
    return Trace.load(**options, bin_s=window)
