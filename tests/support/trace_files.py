"""Trace files for tests: how they are written, and how wrong ones are refused."""

from __future__ import annotations

from pathlib import Path

from refusals import refusal

from testbed.traces import Trace

GNETTRACK = "Timestamp,Longitude,DL_bitrate,UL_bitrate,State\n"
LINK = {"target": "link/b", "direction": "down"}


def put(folder: Path, name: str, text: str) -> Path:
    """Write a file with these line ends."""
    path = folder / name
    path.write_bytes(text.encode())
    return path


def refused(path: Path, message: str, begin: str = "", format: str | None = None, **options: object) -> None:
    """Check that a file is refused in one sentence that begins and goes on so."""
    refusal(lambda: Trace.load(path, format, **options), message, begin=begin)  # type: ignore[arg-type]
