"""Programs of the system are found whatever PATH is, and what one that fails says reaches the user."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from testbed.programs import SYSTEM_FOLDERS, complaint, find_program, search_path


def test_what_path_names_comes_before_the_systems_folders() -> None:
    assert search_path("/opt/bin:/usr/bin").split(":")[:3] == ["/opt/bin", "/usr/bin", "/usr/local/sbin"]
    assert set(SYSTEM_FOLDERS) < set(search_path("/opt/bin").split(":"))


@pytest.mark.parametrize("given", ["", ":", "/usr/bin::/bin", ":/usr/bin", "/usr/bin:"])
def test_an_empty_name_in_path_does_not_become_the_current_folder(given: str) -> None:
    assert "" not in search_path(given).split(":")


@pytest.mark.parametrize("path", ["/usr/local/bin:/usr/bin:/bin", "/nowhere", "", None])
def test_whoever_emulates_finds_the_systems_programs_and_so_does_what_it_starts(path: str | None) -> None:
    env = {key: value for key, value in os.environ.items() if key != "PATH"} | ({} if path is None else {"PATH": path})
    look = "import testbed.emulation, subprocess; print(subprocess.check_output(['which', 'ifconfig', 'unshare']))"
    found = subprocess.run([sys.executable, "-c", look], env=env, capture_output=True, text=True, check=True).stdout
    assert "/ifconfig" in found and "/unshare" in found


def test_a_program_that_is_nowhere_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert find_program("no-such-program-of-anybody") is None
    assert find_program("ip") in {f"{folder}/ip" for folder in SYSTEM_FOLDERS}


def test_what_a_failed_program_said_is_never_empty() -> None:
    assert complaint(1, "first\nlast words\n\n") == "last words"
    assert complaint(3, b"") == "it ended with code 3"
    assert complaint(-9, " \n") == "it was killed by signal 9"
