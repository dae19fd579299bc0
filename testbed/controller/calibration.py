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

from testbed.controller.keeping_up import HostSpeed, Together
from testbed.errors import ConfigError
from testbed.files import make_folder, refuse_special
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
    speed: HostSpeed | None = None  # with several devices that compute at once

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
# As `testbed calibrate` measured it on the two-core host that this was written on: milliseconds by devices at once.
_NOMINAL_FINISHED_MS = {
    1: (0.45, 0.47, 0.48, 0.50, 0.51, 0.55, 0.57, 0.60, 0.62, 0.65, 0.68, 0.70, 0.73, 0.78, 0.85, 0.98),
    2: (0.50, 0.53, 0.55, 0.58, 0.60, 0.63, 0.66, 0.68, 0.71, 0.74, 0.81, 0.84, 0.89, 1.05, 1.19, 1.52),
    4: (0.55, 0.63, 0.71, 0.76, 0.81, 0.87, 0.93, 1.03, 1.19, 1.32, 1.42, 1.52, 1.63, 1.79, 2.03, 3.27),
    8: (0.61, 0.71, 0.79, 0.90, 1.13, 1.39, 1.69, 2.18, 2.81, 4.42, 5.25, 6.45, 7.40, 8.11, 8.97, 10.47),
}  # fmt: skip
_NOMINAL_READ_BYTES = 2430720.0  # three heads of GPT-2
NOMINAL_SPEED = HostSpeed(
    cores=2,
    streaming_Bps=17e9,
    together=tuple(
        Together(count, _NOMINAL_READ_BYTES, tuple(ms / 1e3 for ms in times))
        for count, times in _NOMINAL_FINISHED_MS.items()
    ),
)


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


def writable_calibration_path() -> Path:
    """That path; raises ConfigError where something lies there that must not be replaced, such as a device."""
    path = calibration_path()
    refuse_special(path)
    return path


def write_calibration(found: HostCalibration) -> Path:
    """Keep a calibration in this host's file, replacing the one before; returns the file."""
    path = writable_calibration_path()
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(found.to_dict(), indent=2) + "\n")
    temporary.replace(path)
    return path
