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
from typing import Any

from testbed.errors import ConfigError

VERSION = 1
PATH_VARIABLE = "TESTBED_CALIBRATION"
# What a message costs in software on its way, as measured on a two-core host (0.10-0.12 ms, ZeroMQ and Python).
NOMINAL_HOP_S = 1e-4


@dataclass(frozen=True)
class HostCalibration:
    """What is known of this host; the defaults are the nominal values."""

    hop_overhead_s: float = NOMINAL_HOP_S  # from a block's end on one device to the next one's start, links apart
    pacing_floor_s: float = 0.0  # 95th percentile of how late a paced operation ends
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
            raise ConfigError(f"{origin} has version {version!r} and not {VERSION}: run `testbed calibrate` again")
        values = {key: value for key, value in document.items() if key != "version"}
        unknown = sorted(values.keys() - {one.name for one in fields(cls)})
        hop = values.get("hop_overhead_s")
        if unknown or isinstance(hop, bool) or not isinstance(hop, int | float) or not 0 <= hop < 1:
            what = f"the unknown key {unknown[0]!r}" if unknown else f"hop_overhead_s {hop!r}, no time below 1 s"
            raise ConfigError(f"{origin} has {what}: run `testbed calibrate` again, or delete the file")
        return cls(**values)


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
        document = json.loads(path.read_text())
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error}): run `testbed calibrate` again, or delete it") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path} must hold a JSON object: run `testbed calibrate` again, or delete it")
    return HostCalibration.from_dict(document, str(path))


def write_calibration(found: HostCalibration) -> Path:
    """Keep a calibration in this host's file, replacing the one before; returns the file."""
    path = calibration_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(found.to_dict(), indent=2) + "\n")
    temporary.replace(path)
    return path
