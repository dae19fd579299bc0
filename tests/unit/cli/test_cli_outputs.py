"""Output paths that name what is neither a file nor a folder, and standard output that is closed."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import cli

ROOT = Path(__file__).parents[3]
SMALL = ROOT / "experiments" / "small-scale.yaml"
TRACE = ROOT / "traces" / "data" / "link-collapse.csv"
SIMULATED = ["--backend", "sim", "--set", "tokens=8"]
INTO_FOLDERS = {
    "replay": ["replay", str(SMALL), "--policy", "round-robin", *SIMULATED],
    "compare": ["compare", str(SMALL), "--policy", "round-robin", *SIMULATED],
    "sweep": ["sweep", "SWEEP"],
    "plot": ["plot", "RUN"],
}
INTO_FILES = {
    "report": ["report", "RUN"],
    "traces generate": ["traces", "generate", "outage", "--target", "link/b", "--set", "at=3"],
    "traces import": ["traces", "import", "TRACE"],
    "topologies generate": ["topologies", "generate", "paper", "--devices", "4"],
}
SWEEP = f"experiment: {SMALL}\npolicies: [round-robin]\nover: {{tokens: [8]}}\n"
KINDS = ["a pipe", "a device", "a socket"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    assert cli.run([*INTO_FOLDERS["replay"], "--out", str(out)]) == 0
    return next(out.iterdir())


@pytest.fixture
def special(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """One of each kind: its path."""
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(tmp_path / "socket"))
        yield {"a pipe": tmp_path / "pipe", "a device": Path("/dev/null"), "a socket": tmp_path / "socket"}


def filled(words: list[str], folder: Path, run: Path | None = None) -> list[str]:
    """A command line with the files that it names, made in a folder."""
    (folder / "all.yaml").write_text(SWEEP)
    files = {"RUN": str(run), "SWEEP": str(folder / "all.yaml"), "TRACE": str(TRACE)}
    return [files.get(word, word) for word in words]


def assert_refused(arguments: list[str], path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence that it is refused in."""
    code, told = cli.run(arguments), capsys.readouterr()
    assert (code, told.out) == (2, ""), told
    assert told.err.startswith("Error: ") and told.err.count("\n") == 1 and str(path) in told.err, told.err
    return told.err


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", INTO_FOLDERS)
def test_what_is_no_folder_takes_no_run_folders(
    verb: str, kind: str, run: Path, special: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = filled(INTO_FOLDERS[verb], tmp_path, run)
    for out in (special[kind], special[kind] / "in" / "it"):
        assert_refused([*arguments, "--out", str(out)], special[kind], capsys)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", INTO_FILES)
def test_what_is_no_file_is_not_written(
    verb: str, kind: str, run: Path, special: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*filled(INTO_FILES[verb], tmp_path, run), "--out", str(special[kind])]
    assert kind in assert_refused(arguments, special[kind], capsys)


def test_a_calibration_never_replaces_what_is_no_file(
    special: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (special["a pipe"], special["a socket"]):  # not the device: all of this machine would miss it
        monkeypatch.setenv("TESTBED_CALIBRATION", str(path))
        before = path.stat()
        assert_refused(["calibrate"], path, capsys)
        assert (path.stat().st_ino, stat.S_IFMT(path.stat().st_mode)) == (before.st_ino, stat.S_IFMT(before.st_mode))


@pytest.mark.parametrize("verb", ["replay", "compare", "sweep"])
def test_a_summary_that_nobody_can_be_told_is_one_sentence_and_code_3(verb: str, tmp_path: Path) -> None:
    arguments = [*filled(INTO_FOLDERS[verb], tmp_path), "--json", "--out", str(tmp_path / "out")]
    command = [sys.executable, "-m", "testbed", *arguments]
    done = subprocess.run(
        ["bash", "-c", '"$@" >&-', "bash", *command], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )  # fmt: skip
    assert done.returncode == 3 and done.stderr.count("\n") == 1, done
    assert "standard output cannot be written" in done.stderr
    assert list((tmp_path / "out").rglob("summary.json"))
