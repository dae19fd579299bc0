"""What killed processes leave in temporary folders is removed, and nothing else is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from testbed.temporary import MARK, remove_abandoned, temporary_folder

HOLDING = """
import sys
from pathlib import Path
from testbed.temporary import temporary_folder
with temporary_folder("headroom-x-", Path(sys.argv[1])) as folder:
    (folder / "part.o").write_text("half")
    print(folder, flush=True)
    input()
"""


def test_a_killed_process_leaves_a_folder_that_the_next_of_its_kind_removes(tmp_path: Path) -> None:
    holding = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holding.stdout is not None
    folder = Path(holding.stdout.readline().strip())
    assert (folder / "part.o").exists() and remove_abandoned("headroom-x-", tmp_path) == []
    holding.kill()
    holding.communicate()
    assert (folder / "part.o").exists()
    with temporary_folder("headroom-y-", tmp_path):
        assert folder.exists(), "another kind"
    with temporary_folder("headroom-x-", tmp_path) as following:
        assert not folder.exists() and following.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_what_only_has_such_a_name_is_left_alone(tmp_path: Path) -> None:
    others = tmp_path / "elsewhere"
    for folder in (others, tmp_path / "headroom-x-mine", tmp_path / "headroom-x-deep" / "inner"):
        folder.mkdir(parents=True)
    (others / MARK).touch()
    (tmp_path / "headroom-x-link").symlink_to(others)
    (tmp_path / "headroom-x-file").touch()
    (tmp_path / "headroom-x-mine" / MARK).symlink_to(others / MARK)
    before = sorted(tmp_path.rglob("*"))
    assert remove_abandoned("headroom-x-", tmp_path) == []
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_goes_also_where_its_use_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), temporary_folder("headroom-x-", tmp_path):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
