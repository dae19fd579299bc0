"""What a shell completes, and where the script for it goes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_run import make_run

from testbed.cli import run

ROOT = Path(__file__).parents[3]


def completed(where: Path, *words: str) -> list[str]:
    """What bash offers for the last of these words."""
    line = {
        "COMP_WORDS": " ".join(["testbed", *words]),
        "COMP_CWORD": str(len(words)),
        "_TESTBED_COMPLETE": "bash_complete",
    }
    done = subprocess.run(
        [sys.executable, "-m", "testbed"], cwd=where, capture_output=True, text=True, timeout=60,
        env=os.environ | line | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [answer.partition(",")[2] for answer in done.stdout.splitlines()]


def test_names_are_completed(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "runs")
    assert completed(tmp_path, "expl") == ["explain"]
    assert completed(tmp_path, "replay", "quick") == ["quickstart"]
    assert completed(tmp_path, "sweep", "sw") == ["sweep-delay"]
    assert completed(tmp_path, "topologies", "show", "st") == ["star4"]
    assert completed(tmp_path, "traces", "show", "out") == ["outage"]
    assert completed(tmp_path, "replay", "quickstart", "--policy", "head") == ["headroom"]
    assert completed(tmp_path, "replay", "quickstart", "--tok") == ["--tokens"]
    assert completed(tmp_path, "runs", "pr") == ["prune"]
    for verb in (["explain"], ["export"], ["plot"], ["report"], ["runs", "show"], ["runs", "diff", "x"]):
        assert completed(tmp_path, *verb, folder.name[:6]) == [folder.name]
    assert completed(tmp_path, "explain", f"runs/{folder.name[:6]}") == [f"runs/{folder.name}"]


@pytest.mark.parametrize(
    ("shell", "place"),
    [
        ("bash", "data/bash-completion/completions/testbed"),
        ("zsh", ".zfunc/_testbed"),
        ("fish", "settings/fish/completions/testbed.fish"),
    ],
)
def test_the_script_is_printed_or_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shell: str, place: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.delenv("BASH_COMPLETION_USER_DIR", raising=False)
    monkeypatch.setenv("SHELL", f"/bin/{shell}")
    assert run(["completion"]) == 0
    script = capsys.readouterr().out
    assert "_TESTBED_COMPLETE" in script
    assert run(["completion", shell, "--install"]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / place}: written. ")
    assert (tmp_path / place).read_text() == script


def test_bash_takes_the_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", "bash"]) == 0
    script = tmp_path / "testbed.bash"
    script.write_text(capsys.readouterr().out)
    done = subprocess.run(
        ["bash", "-c", f"source {script}; complete -p testbed"], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0 and "-F _testbed_completion" in done.stdout


def test_an_unknown_shell_must_be_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    assert run(["completion"]) == 2
    assert capsys.readouterr().err == "Error: $SHELL is tcsh: say which shell, bash, zsh, fish\n"
