"""What root makes for the user who called sudo is that user's afterwards, and nothing else is."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import QUICKSTART, TINY, UNJUDGED, Place, write_experiment

from testbed.running.ownership import given_to_sudo_user

USER = 65534


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the user who calls sudo."""
    monkeypatch.setenv("SUDO_UID", str(USER))
    monkeypatch.setenv("SUDO_GID", str(USER))
    folder = Path(tempfile.mkdtemp(prefix="hr-home-"))
    os.chown(folder, USER, USER)
    yield folder
    shutil.rmtree(folder)


def owners(folder: Path) -> set[int]:
    return {path.lstat().st_uid for path in [folder, *folder.rglob("*")]}


def test_files_and_folders_made_in_the_block_are_the_callers_and_older_ones_stay_roots(home: Path) -> None:
    (home / "before").touch()
    (home / "there").mkdir()
    with given_to_sudo_user():
        (home / "there" / "new").write_text("x")
        (home / "a" / "b").mkdir(parents=True)
        subprocess.run(["touch", home / "a" / "b" / "by-another-process"], check=True)
        (home / "before").write_text("changed")
    assert owners(home / "a") == {USER} and (home / "there" / "new").stat().st_uid == USER
    assert (home / "before").stat().st_uid == 0 and (home / "there").stat().st_uid == 0


def test_links_and_second_names_are_left(home: Path, tmp_path: Path) -> None:
    secret = home.parent / f"{home.name}-secret"
    secret.write_text("root's")
    (tmp_path / "file").touch()
    try:
        with given_to_sudo_user():
            (home / "run").mkdir()
            (home / "run" / "link").symlink_to(secret)
            os.link(secret, home / "run" / "name")
            (home / "swapped").mkdir()
            (home / "swapped" / "file").touch()
            (home / "swapped").rename(home / "away")
            (home / "swapped").symlink_to(tmp_path)
        assert secret.stat().st_uid == 0 and owners(tmp_path) == {0}
        assert (home / "run").stat().st_uid == USER
    finally:
        secret.unlink()


def test_a_file_that_a_link_leads_to_in_a_folder_that_was_swapped_is_not_given(home: Path, tmp_path: Path) -> None:
    (tmp_path / "shadow").write_text("root's")
    (home / "out").mkdir()
    with given_to_sudo_user():
        (home / "out" / "shadow").write_text("a report")
        shutil.rmtree(home / "out")
        (home / "out").symlink_to(tmp_path)
    assert (tmp_path / "shadow").stat().st_uid == 0


@pytest.mark.parametrize(("uid", "gid"), [("", ""), ("0", "0"), ("-1", "-1"), ("nobody", "x"), ("9" * 30, "1")])
def test_without_a_caller_nothing_is_given(uid: str, gid: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_UID", uid)
    monkeypatch.setenv("SUDO_GID", gid)
    with given_to_sudo_user():
        (home / "new").touch()
    assert (home / "new").stat().st_uid == 0


def by_sudo(place: Place, *arguments: str | Path) -> None:
    """Carry out a command as root for the user; it must end well."""
    sudo = {"SUDO_UID": str(USER), "SUDO_GID": str(USER), "SUDO_USER": "nobody", "SUDO_COMMAND": "testbed"}
    ended = place.testbed(*arguments, env=place.env | sudo)
    assert ended.code == 0, ended.err


@pytest.mark.parametrize("backend", ["sim", "mininet"])
def test_a_run_by_sudo_leaves_its_folder_to_the_user_and_its_runtime_folder_to_root(
    backend: str, place: Place, home: Path
) -> None:
    arguments = [] if backend == "sim" else ["--verify", *UNJUDGED]
    by_sudo(
        place, "replay", QUICKSTART, *TINY, "--backend", backend, "--tokens", "4", "--out", home / "runs", *arguments
    )
    assert owners(home / "runs") == {USER}
    assert not place.runtime.exists() or owners(place.runtime) == {0}


@pytest.mark.parametrize(("verb", "backend"), [("compare", "mininet"), ("sweep", "sim")])
def test_a_comparison_or_a_sweep_by_sudo_leaves_all_that_it_has_made_to_the_user(
    verb: str, backend: str, place: Place, home: Path
) -> None:
    experiment = write_experiment(home, tokens=4, compute="paced")
    policies = ("round-robin", "single")
    if verb == "compare":
        arguments = [experiment, "--backend", backend, *(word for name in policies for word in ("--policy", name))]
    else:
        sweep = home / "all.yaml"
        sweep.write_text(f"experiment: own.yaml\npolicies: [{', '.join(policies)}]\nbackend: [{backend}]\n")
        arguments = [sweep]
    by_sudo(place, verb, *arguments, "--out", home / "out", "--share-host")
    assert owners(home / "out") == {USER} and len(list(home.rglob("summary.json"))) == len(policies)
    assert place.left_behind() == []
