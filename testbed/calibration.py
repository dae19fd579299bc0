"""What this host's software adds to what it emulates, measured once by `testbed calibrate` and kept in a file.

Policies, predictions and the simulation all take it from here, so that the same experiment is decided in the same way
on every backend. Without a file the nominal values hold. Seconds are wall seconds; a run with `dilation: k` feels the
k-th part of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import msgspec

from testbed.errors import ConfigError
from testbed.strict_json import checked, read_object
from testbed.strict_yaml import shown

VERSION = 1
PATH_VARIABLE = "TESTBED_CALIBRATION"
# What a message costs in software on its way, as measured on a two-core host (0.10-0.12 ms, ZeroMQ and Python).
NOMINAL_HOP_S = 1e-4


Seconds = Annotated[float, msgspec.Meta(ge=0, lt=1)]


@dataclass(frozen=True)
class HostCalibration:
    """What is known of this host; the defaults are the nominal values."""

    hop_overhead_s: Seconds = NOMINAL_HOP_S  # from a block's end on one device to the next one's start, links apart
    pacing_floor_s: Seconds = 0.0  # 95th percentile of how late a paced operation ends
    backend: str = ""  # where it was measured; empty for the nominal values
    created: str = ""  # UTC
    host: Mapping[str, Any] = field(default_factory=dict, hash=False)
    block_seconds: Mapping[str, float] = field(default_factory=dict, hash=False)  # unpaced, of the model measured with
    model: str = ""

    @property
    def measured(self) -> bool:
        """Whether these are this host's own values."""
        return bool(self.backend)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON, with the version."""
        return {"version": VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], origin: str) -> HostCalibration:
        """The inverse of `to_dict`; raises ConfigError naming `origin`."""
        version = document.get("version")
        if version != VERSION:
            raise ConfigError(f"{origin} has version {shown(version)} and not {VERSION}: run `testbed calibrate` again")
        values = {key: value for key, value in document.items() if key != "version"}
        way_out = "run `testbed calibrate` again, or delete the file"
        for unknown in sorted(values.keys() - {one.name for one in fields(cls)}):
            raise ConfigError(f"{origin} has the unknown key {shown(unknown)}: {way_out}")
        try:
            return checked(values, cls, origin)
        except ConfigError as error:
            raise ConfigError(f"{error}; {way_out}") from error


NOMINAL = HostCalibration()


def calibration_path() -> Path:
    """Where this host's calibration is kept: `$TESTBED_CALIBRATION`, else under `$XDG_CACHE_HOME` or ~/.cache."""
    given = os.environ.get(PATH_VARIABLE)
    if given:
        return Path(given)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "headroom" / "calibration.json"


def host_calibration() -> HostCalibration:
    """This host's calibration, or the nominal one where there is none; raises ConfigError for a damaged file."""
    path = calibration_path()
    if not path.exists():
        return NOMINAL
    try:
        document = read_object(path)
    except ConfigError as error:
        raise ConfigError(f"{error}; run `testbed calibrate` again, or delete it") from error
    return HostCalibration.from_dict(document, str(path))


def write_calibration(found: HostCalibration) -> Path:
    """Keep a calibration in this host's file, replacing the one before; returns the file."""
    path = calibration_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(found.to_dict(), indent=2) + "\n")
    temporary.replace(path)
    return path
