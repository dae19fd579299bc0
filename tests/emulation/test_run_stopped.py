"""A few of the kill matrix's cases (tests/nightly), and run folders that take no more."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from killing import assert_one_sentence, codes, hit, vulnerable
from running import UNJUDGED, Place

from testbed.runlog.folder import read_json


@pytest.mark.parametrize(
    ("backend", "which", "number"),
    [
        ("local", "forkserver", signal.SIGSTOP),
        ("mininet", "ballast", signal.SIGKILL),
        ("mininet", "worker", signal.SIGTERM),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_run_ends_in_one_sentence_when_one_of_its_processes_does(
    backend: str, which: str, number: signal.Signals, place: Place, tmp_path: Path
) -> None:
    ended, _ = hit(place, tmp_path, which, number, "decode", backend)
    assert_one_sentence(ended)
    assert ended.code in codes(which, number, "decode") and which in ended.sentence


def test_a_run_whose_folder_vanishes_stops_at_once_in_one_sentence(place: Place, tmp_path: Path) -> None:
    with place.started(vulnerable(tmp_path, "decode", "local"), "--backend", "local", *UNJUDGED) as going:
        folder = going.until_token(2)
        while folder.exists():  # the run may make a file while its folder is being emptied
            shutil.rmtree(folder, ignore_errors=True)
        ended = going.end()
    assert ended.code == 3 and str(folder) in ended.sentence and "removed" in ended.sentence
    assert place.left_behind() == []


def test_a_full_disk_stops_a_run_in_one_sentence_and_takes_its_summary(place: Place, tmp_path: Path) -> None:
    place.out.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=500k", "tmpfs", place.out], check=True)
    try:
        with place.started(vulnerable(tmp_path, "decode", "local"), "--backend", "local", *UNJUDGED) as going:
            folder = going.folder()
            (place.out / "filler").write_bytes(b"x" * 60_000)
            ended = going.end()
        assert ended.code == 3 and "No space left on device" in ended.sentence
        assert read_json(folder / "summary.json")["status"] == "failed"
    finally:
        subprocess.run(["umount", place.out], check=True)
    assert place.left_behind() == []


def test_too_few_open_files_are_one_sentence_before_anything_waits(place: Place, tmp_path: Path) -> None:
    experiment = vulnerable(tmp_path, "decode", "local")
    ended = place.replay(experiment, "--backend", "local", *UNJUDGED, prefix=["prlimit", "--nofile=40:40"])
    assert ended.code == 3 and "raise `ulimit -n`" in ended.sentence
    assert place.left_behind() == []
