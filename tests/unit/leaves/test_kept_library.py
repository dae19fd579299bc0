"""Libraries that are made once and then found."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from testbed import kept_library


def test_whoever_waits_for_a_library_to_be_made_is_told_and_later_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda path: path)
    for _ in range(2):
        kept_library.load("some.so", tmp_path, "search", Path.touch)
    assert [record.message for record in caplog.records] == [
        "The search is compiled for this machine, once; this may take a minute."
    ]
