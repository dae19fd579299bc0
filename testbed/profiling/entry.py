"""A profile as an entry of the device catalogue, with the source and the spread of each value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import yaml

from testbed.profiling.numbers import Measured
from testbed.profiling.profile import Profile
from testbed.units import format_bandwidth, format_bytes, format_compute, format_duration, format_rate

Render = Callable[[float], str]


def catalogue_entry(profile: Profile) -> dict[str, Any]:
    """The entry's name and its fields, as `topologies/catalogue.yaml` has them."""
    computing, messages = profile.computing, profile.messages
    by_format = computing.streaming_Bps, computing.compute_flops
    plain = [rates["float32"] for rates in by_format]
    finer = [{name: one for name, one in rates.items() if name != "float32"} for rates in by_format]
    fields: dict[str, Any] = {
        "board": profile.machine.title,
        "streaming": _value(profile, plain[0], format_bandwidth, "a token's time over its float32 weights"),
        "compute": _value(profile, plain[1], format_compute, "a chunk of 32 rows in float32"),
        "memory": {"value": format_bytes(profile.machine.memory_bytes), "source": "MemTotal of /proc/meminfo"}
        | _same_board,
        "storage": _storage(profile),
        "streaming_by_format": _values(profile, finer[0], format_bandwidth, "as streaming, in other formats"),
        "kv_streaming": _value(
            profile,
            computing.kv_streaming_Bps,
            format_bandwidth,
            "a long cache beside a short one, with its rereads",
        ),
        "compute_by_format": _values(profile, finer[1], format_compute, "as compute, in other formats"),
        "threads": {"value": profile.threads, "source": "as profiled"} | _same_board,
        "barrier": _value(profile, computing.barrier_s, _seconds, "layers with next to no weights, for each block"),
        "send": _value(profile, messages.send_s, _seconds, "the sending call of a small message, TCP on the loopback"),
        "receive": _value(profile, messages.receive_s, _seconds, "the rest of half a round trip on the loopback"),
        "send_per_byte": _value(profile, messages.send_s_per_byte, _per_byte, "messages of 64 KiB beside small ones"),
        "receive_per_byte": _value(
            profile, messages.receive_s_per_byte, _per_byte, "messages of 64 KiB beside small ones"
        ),
    }
    return {profile.entry_name: fields}


def entry_text(profile: Profile) -> str:
    """The entry as YAML, ready to be appended to the catalogue."""
    return yaml.safe_dump(catalogue_entry(profile), sort_keys=False, allow_unicode=True, width=120)


def link_entry(profile: Profile) -> dict[str, str] | None:
    """The measured link in the form of a device's `link`; None if no peer was asked."""
    if profile.link is None:
        return None
    return {"rate": format_rate(profile.link.rate_bps.value), "delay": format_duration(profile.link.delay_s.value)}


_same_board: dict[str, Any] = {"provenance": "same-board"}


def _value(profile: Profile, one: Measured, render: Render, how: str) -> dict[str, Any]:
    return {"value": render(one.value), "spread": _spread(one, render), "source": _source(profile, how)} | _same_board


def _values(profile: Profile, found: Mapping[str, Measured], render: Render, how: str) -> dict[str, Any]:
    return {
        "value": {name: render(one.value) for name, one in found.items()},
        "spread": {name: _spread(one, render) for name, one in found.items()},
        "source": _source(profile, how),
    } | _same_board


def _storage(profile: Profile) -> dict[str, Any]:
    if profile.storage_Bps is None:
        return {
            "value": "600 MB/s", "source": "not measured: the files of that folder lie in memory",
            "provenance": "default",
        }  # fmt: skip
    return _value(profile, profile.storage_Bps, format_bandwidth, "a new file read past the page cache")


def _spread(one: Measured, render: Render) -> str:
    return f"{render(one.least)} to {render(one.most)}"


def _source(profile: Profile, how: str) -> str:
    return f"testbed profile, {profile.engine} {profile.version}, threads: {profile.threads}, {profile.date}: {how}"


def _seconds(value: float) -> str:
    return f"{value * 1e6:.4g} us"


def _per_byte(value: float) -> str:
    return f"{value * 1e9:.4g} ns/B"
