"""A few of the kill matrix's cases (tests/nightly), and run folders that take no more."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from killing import assert_one_sentence, codes, hit, vulnerable
from running import UNJUDGED, Place

from testbed.runlog.folder import read_json

BACKENDS = pytest.mark.parametrize("backend", ["mininet", "local"])
AT_ONCE_S = 20.0  # 300 tokens take over a minute


@pytest.mark.parametrize(
    ("backend", "which", "number"),
    [
        ("local", "forkserver", signal.SIGSTOP),
        ("mininet", "ballast", signal.SIGKILL),
        ("mininet", "worker", signal.SIGTERM),
        ("mininet", "forkserver", signal.SIGKILL),
        ("mininet", "inner", signal.SIGKILL),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_run_ends_in_one_sentence_when_one_of_its_processes_does(
    backend: str, which: str, number: signal.Signals, place: Place, tmp_path: Path
) -> None:
    ended, _ = hit(place, tmp_path, which, number, "decode", backend)
    assert_one_sentence(ended, which)
    assert ended.code in codes(which, number, "decode")


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


@pytest.mark.host_only("the guest's kernel has no loop devices")
@BACKENDS
def test_a_disk_that_becomes_read_only_stops_a_run_in_one_sentence(backend: str, place: Place, tmp_path: Path) -> None:
    place.out.mkdir()
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(16 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", disk], check=True)
    subprocess.run(["mount", "-o", "loop,errors=remount-ro", disk, place.out], check=True)
    try:
        with place.started(vulnerable(tmp_path, "decode", backend), "--backend", backend, *UNJUDGED) as going:
            folder = going.until_token(2)
            subprocess.run(["mount", "-o", "remount,abort", place.out], check=True)  # as an error of the disk does
            begun = time.monotonic()
            ended = going.end()
        assert time.monotonic() - begun < AT_ONCE_S
        assert ended.code == 3 and str(folder) in ended.sentence and "Read-only file system" in ended.sentence
    finally:
        subprocess.run(["umount", place.out], check=True)
    assert place.left_behind() == []


@BACKENDS
@pytest.mark.parametrize("how", ["remounted read-only", "gone"])
def test_a_run_folder_that_takes_no_new_files_at_the_end_is_one_sentence(
    how: str, backend: str, place: Place, tmp_path: Path
) -> None:
    (tmp_path / "shut").touch()  # until the folder takes no more
    with place.started(vulnerable(tmp_path, "teardown", backend), "--backend", backend, *UNJUDGED) as going:
        folder, init = going.until_token(1), going.record().init
        assert init is not None
        inside = ["nsenter", f"--mount=/proc/{init.pid}/ns/mnt"] if backend == "mininet" else []
        mount = ["--bind", "-o", "ro"] if how == "remounted read-only" else ["-t", "tmpfs"]
        source = str(place.out) if how == "remounted read-only" else "tmpfs"
        subprocess.run([*inside, "mount", *mount, source, place.out], check=True)
        (tmp_path / "shut").unlink()
        try:
            ended = going.end()
        finally:
            if not inside:
                subprocess.run(["umount", place.out], check=True)
    assert ended.code == 3 and str(folder) in ended.sentence
    assert ("Read-only file system" if how == "remounted read-only" else "removed") in ended.sentence
    assert place.left_behind() == []


def test_too_few_open_files_are_one_sentence_before_anything_waits(place: Place, tmp_path: Path) -> None:
    experiment = vulnerable(tmp_path, "decode", "local")
    ended = place.replay(experiment, "--backend", "local", *UNJUDGED, prefix=["prlimit", "--nofile=40:40"])
    assert ended.code == 3 and "raise `ulimit -n`" in ended.sentence
    assert place.left_behind() == []
