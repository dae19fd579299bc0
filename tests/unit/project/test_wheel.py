"""The wheel: it holds all that is bundled, and works away from the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from testbed.bundled import PLACES, bundled

ROOT = Path(__file__).parents[3]
PACKAGES = ("testbed", "analysis", "topologies", "traces", "experiments")
FILES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "NOTICE")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a wheel that was built of a copy of the tree."""
    tree, out, unpacked = (tmp_path_factory.mktemp(name) for name in ("tree", "wheel", "unpacked"))
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.nb?"))
    for file in FILES:
        shutil.copy(ROOT / file, tree / file)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
         "--disable-pip-version-check", "--wheel-dir", str(out), str(tree)],
        check=True, timeout=280,
    )  # fmt: skip
    (wheel,) = out.glob("headroom_testbed-*-py3-none-any.whl")
    zipfile.ZipFile(wheel).extractall(unpacked)
    for library in ROOT.glob("testbed/*/__pycache__/*.so"):  # taken for the wheel's if it has the same sources
        kept = unpacked / library.relative_to(ROOT)
        kept.parent.mkdir(exist_ok=True)
        shutil.copy(library, kept)
    return unpacked


def python(unpacked: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder with the wheel's files before all others."""
    environment = os.environ | {"PYTHONPATH": str(unpacked), "PYTHONSAFEPATH": ""}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def test_the_wheel_holds_every_bundled_file(unpacked: Path) -> None:
    for kind in PLACES:
        missing = [name for name, path in bundled(kind).items() if not (unpacked / path.relative_to(ROOT)).is_file()]
        assert missing == [], kind


def test_the_wheel_holds_every_file_that_the_program_reads(unpacked: Path) -> None:
    wanted = subprocess.run(["git", "ls-files", "testbed"], cwd=ROOT, capture_output=True, text=True, check=True)
    missing = [name for name in wanted.stdout.splitlines() if not (unpacked / name).is_file()]
    assert missing == []


def test_the_wheel_replays_the_quick_start_in_another_folder_with_the_same_compiled_search(
    unpacked: Path, tmp_path: Path
) -> None:
    arguments = ("replay", "quickstart", "--backend", "sim", "--policy", "static", "--tokens", "4", "--out", "runs")
    done = python(unpacked, tmp_path, "-m", "testbed", *arguments)
    assert done.returncode == 0 and "compiled" not in done.stderr, done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    page = python(unpacked, tmp_path, "-m", "testbed", "report", str(run), "--out", "report.html")
    assert page.returncode == 0, page.stderr
    where = python(unpacked, tmp_path, "-c", "import testbed; print(testbed.__file__)")
    assert Path(where.stdout.strip()).is_relative_to(unpacked)


def test_a_folder_named_analysis_is_not_in_the_way(unpacked: Path, tmp_path: Path) -> None:
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "__init__.py").write_text("raise RuntimeError('not this one')")
    done = python(unpacked, tmp_path, "-c", "import testbed.analysis; testbed.analysis.load")
    assert done.returncode == 0, done.stderr
