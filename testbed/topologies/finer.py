"""The finer numbers of a device in a topology file or the catalogue: reads them into a `DeviceModel`, and writes them.

All keys are optional. `docs/topologies-and-traces.md` says what each means and what holds without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from testbed.device_model import PLAIN, DeviceModel, Rates
from testbed.errors import ConfigError
from testbed.formats import FORMATS
from testbed.strict_yaml import require_mapping, shown, suggest
from testbed.topologies.fields import Parse, exact, parsed, positive
from testbed.topologies.links import Link
from testbed.units import (
    format_bandwidth,
    format_compute,
    format_duration,
    parse_bandwidth,
    parse_compute,
    parse_duration,
    parse_fraction,
    parse_power,
    parse_time_per_byte,
    parse_times,
)

STREAMING, KV_STREAMING, COMPUTE, THREADS = "streaming_by_format", "kv_streaming", "compute_by_format", "threads"
MOST_THREADS = 1024

# Key -> (field of `DeviceModel`, parser, unit in which it is written, whether 0 is a value)
_SIMPLE: Mapping[str, tuple[str, Parse, str, bool]] = {
    "kv_rereads": ("kv_rereads", parse_times, "", False),
    "serial_share": ("serial_share", parse_fraction, "", True),
    "barrier": ("barrier_s", parse_duration, "s", True),
    "send": ("send_s", parse_duration, "s", True),
    "receive": ("receive_s", parse_duration, "s", True),
    "send_per_byte": ("send_s_per_byte", parse_time_per_byte, "s/B", True),
    "receive_per_byte": ("receive_s_per_byte", parse_time_per_byte, "s/B", True),
    "idle_power": ("idle_watts", parse_power, "W", True),
    "busy_power": ("busy_watts", parse_power, "W", True),
}
FINER_KEYS = (STREAMING, KV_STREAMING, COMPUTE, THREADS, *_SIMPLE)
MESSAGE_KEYS = ("send", "receive", "send_per_byte", "receive_per_byte")
"""What a device's software takes for messages. It lengthens the device's own link, so only shapes with one have it."""


def read_finer(
    fields: Mapping[str, Any], rates: tuple[float, float], board_rates: tuple[float, float] | None, own: set[str],
    origin: str, where: str,
) -> DeviceModel:  # fmt: skip
    """The model that these fields of a device describe; raises ConfigError naming the place, the key and the value.

    `rates` are the device's streaming and compute rates. Rates by format from the catalogue hold at the board's rates,
    `board_rates`. They are scaled where the topology gives the device others; `own` has the keys that it gives itself.
    """
    if not any(key in fields for key in FINER_KEYS):
        return PLAIN

    def scale(key: str, number: int) -> float:
        return 1.0 if key in own or board_rates is None else rates[number] / board_rates[number]

    found: dict[str, Any] = {}
    if STREAMING in fields:
        found["streaming_Bps"] = _by_format(fields, STREAMING, parse_bandwidth, scale(STREAMING, 0), origin, where)
    if KV_STREAMING in fields:
        Bps = positive(fields[KV_STREAMING], parse_bandwidth, origin, f"{where}.{KV_STREAMING}")
        found["kv_streaming_Bps"] = Bps * scale(KV_STREAMING, 0)
    if COMPUTE in fields:
        found["compute_flops"] = _by_format(fields, COMPUTE, parse_compute, scale(COMPUTE, 1), origin, where)
    if THREADS in fields:
        threads = fields[THREADS]
        if type(threads) is not int or not 0 < threads <= MOST_THREADS:
            raise ConfigError(
                f"{origin}: {where}.{THREADS} is {shown(threads)}, but it must be a number from 1 to {MOST_THREADS}"
            )
        found["threads"] = threads
    for key, (name, parse, _, zero) in _SIMPLE.items():
        if key in fields:
            found[name] = (parsed if zero else positive)(fields[key], parse, origin, f"{where}.{key}")
    return replace(PLAIN, plain_Bps=rates[0], plain_flops=rates[1], **found)


def _by_format(fields: Mapping[str, Any], key: str, parse: Parse, scale: float, origin: str, where: str) -> Rates:
    rates = require_mapping(fields[key], origin, f"{where}.{key}")
    for name in rates:
        if name not in FORMATS:
            hint = suggest(name, FORMATS)
            raise ConfigError(f"{origin}: {where}.{key} has {shown(name)}, which is no format of numbers{hint}")
    return tuple(
        (name, positive(rates[name], parse, origin, f"{where}.{key}.{name}") * scale) for name in sorted(rates)
    )


def finer_entry(model: DeviceModel) -> dict[str, Any]:
    """The form of a device's finer numbers in a file, with exact values; only those that differ from the defaults."""
    entry: dict[str, Any] = {}
    if model.streaming_Bps:
        rates = model.streaming_Bps
        entry[STREAMING] = {name: exact(rate, format_bandwidth, parse_bandwidth, "B/s") for name, rate in rates}
    if model.kv_streaming_Bps is not None:
        entry[KV_STREAMING] = exact(model.kv_streaming_Bps, format_bandwidth, parse_bandwidth, "B/s")
    if model.compute_flops:
        rates = model.compute_flops
        entry[COMPUTE] = {name: exact(rate, format_compute, parse_compute, "FLOP/s") for name, rate in rates}
    if model.threads != PLAIN.threads:
        entry[THREADS] = model.threads
    for key, (name, parse, unit, _) in _SIMPLE.items():
        value = getattr(model, name)
        if value != getattr(PLAIN, name):
            render = format_duration if unit == "s" else lambda number, unit=unit: f"{number:.4g} {unit}".strip()
            entry[key] = exact(value, render, parse, unit)
    return entry


def with_software(link: Link, model: DeviceModel) -> Link:
    """A device's own link together with its software: the fixed times join the delays, those per byte cap the rates."""
    if not (model.send_s or model.receive_s or model.send_s_per_byte or model.receive_s_per_byte):
        return link
    return replace(
        link,
        up_bps=min(link.up_bps, model.send_bps),
        down_bps=min(link.down_bps, model.receive_bps),
        up_delay_s=link.up_delay_s + model.send_s,
        down_delay_s=link.down_delay_s + model.receive_s,
    )
