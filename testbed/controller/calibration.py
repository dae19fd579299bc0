"""What this host's software adds to what it emulates. `testbed calibrate` measures it once and keeps it in a file.

Policies, predictions and the simulation all take it from here, so every backend decides the same experiment in the
same way. Without a file the nominal values hold. Seconds are wall seconds; in a run with `dilation: k` they count as
the k-th part in emulated time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import msgspec

from testbed.controller.host_speed import HostSpeed, Together
from testbed.errors import ConfigError
from testbed.files import make_folder, refuse_special
from testbed.strict_json import checked, read_object
from testbed.strict_yaml import shown

VERSION = 1
PATH_VARIABLE = "TESTBED_CALIBRATION"
# What ZeroMQ and Python cost per message, measured at 0.10-0.12 ms on a two-core host.
NOMINAL_HOP_S = 1e-4


Seconds = Annotated[float, msgspec.Meta(ge=0, lt=1)]


@dataclass(frozen=True)
class HostCalibration:
    """What is known of this host. The defaults are the nominal values."""

    hop_overhead_s: Seconds = NOMINAL_HOP_S  # from a block's end to the next one's start elsewhere, without the link
    pacing_floor_s: Seconds = 0.0  # the 95th percentile of how late a paced operation ends
    backend: str = ""  # on which it was measured; empty for the nominal values
    created: str = ""  # time of the measurement, UTC
    host: Mapping[str, Any] = field(default_factory=dict, hash=False)
    block_seconds: Mapping[str, float] = field(default_factory=dict, hash=False)  # unpaced, for `model`
    model: str = ""
    speed: HostSpeed | None = None  # with several devices computing at once

    @property
    def measured(self) -> bool:
        """Whether these values were measured on this host."""
        return bool(self.backend)

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object, with the version."""
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
# Devices computing at once -> (milliseconds per operation, milliseconds that it waits for a core in vain), as
# `testbed calibrate` measured them on a two-core host.
_NOMINAL_MS = {
    1: ((0.38, 0.47, 0.57, 0.61, 0.67, 0.72, 0.80, 0.86, 0.92, 0.97, 1.00, 1.05, 1.12, 1.19, 1.29, 1.55), 0.003),
    2: ((0.43, 0.52, 0.59, 0.65, 0.70, 0.74, 0.81, 0.85, 0.90, 0.96, 0.99, 1.06, 1.14, 1.21, 1.28, 1.51), 0.005),
    4: ((0.43, 0.54, 0.61, 0.72, 0.81, 0.88, 0.94, 1.03, 1.10, 1.23, 1.31, 1.38, 1.50, 1.64, 1.87, 2.22), 0.505),
    8: ((0.59, 0.72, 0.89, 1.03, 1.25, 1.49, 1.65, 1.77, 2.09, 2.29, 2.70, 3.26, 3.56, 3.88, 4.26, 5.12), 2.276),
}  # fmt: skip
_NOMINAL_READ_BYTES = 2430720.0  # three heads of GPT-2
NOMINAL_SPEED = HostSpeed(
    cores=2,
    streaming_Bps=12.1e9,
    together=tuple(
        Together(count, _NOMINAL_READ_BYTES, tuple(ms / 1e3 for ms in times), waited_ms / 1e3)
        for count, (times, waited_ms) in _NOMINAL_MS.items()
    ),
    packed_Bps={
        "float32": 12.1e9, "bfloat16": 9.6e9, "float16": 9.4e9, "q8_0": 4.7e9, "q4_0": 2.2e9, "q4_1": 2.8e9,
    },
)  # fmt: skip


def calibration_path() -> Path:
    """The file of this host's calibration: `$TESTBED_CALIBRATION`, else under `$XDG_CACHE_HOME` or ~/.cache."""
    given = os.environ.get(PATH_VARIABLE)
    if given:
        return Path(given)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "headroom" / "calibration.json"


def host_calibration() -> HostCalibration:
    """This host's calibration, or the nominal one where there is no file; raises ConfigError for a damaged file."""
    path = calibration_path()
    if not path.exists():
        return NOMINAL
    try:
        document = read_object(path)
    except ConfigError as error:
        raise ConfigError(f"{error}; run `testbed calibrate` again, or delete it") from error
    return HostCalibration.from_dict(document, str(path))


def writable_calibration_path() -> Path:
    """The same path; raises ConfigError where something lies there that must not be replaced, such as a device."""
    path = calibration_path()
    refuse_special(path)
    return path


def write_calibration(found: HostCalibration) -> Path:
    """Write a calibration to this host's file, in place of an earlier one; returns the file's path."""
    path = writable_calibration_path()
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(found.to_dict(), indent=2) + "\n")
    temporary.replace(path)
    return path
