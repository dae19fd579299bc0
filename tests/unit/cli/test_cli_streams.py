"""What the command does where nobody can read it, and what it lets through to a terminal."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testbed import cli
from testbed.cli import run
from testbed.cli.show import print_json, print_table
from testbed.cli.terminal import READER_GONE, echo
from testbed.progress import printable

ROOT = Path(__file__).parents[3]
PRINTING = [
    ["policies"],
    ["policies", "--json"],
    ["runs", "experiments"],
    ["traces", "show", "memory-squeeze"],
    ["replay", "experiments/gpt2-star4.yaml", "--dry-run", "--policy", "greedy"],
    ["--help"],
    ["traces", "--help"],
]


def shell(redirection: str, arguments: list[str]) -> subprocess.CompletedProcess[bytes]:
    command = ["bash", "-c", f'"$@" {redirection}', "bash", sys.executable, "-m", "testbed", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=False)


@pytest.mark.parametrize("arguments", PRINTING, ids=" ".join)
def test_a_full_device_as_standard_output_is_one_sentence_and_code_3(arguments: list[str]) -> None:
    done = shell("> /dev/full", arguments)
    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith(b"Error: ") and done.stderr.count(b"\n") == 1
    assert b"No space left on device" in done.stderr


@pytest.mark.parametrize("arguments", PRINTING[:2], ids=" ".join)
def test_a_closed_standard_output_is_one_sentence_and_code_3(arguments: list[str]) -> None:
    done = shell(">&-", arguments)
    assert (done.returncode, done.stderr.count(b"\n")) == (3, 1), done.stderr
    assert b"standard output cannot be written" in done.stderr


@pytest.mark.parametrize("arguments", [PRINTING[1], PRINTING[-1]], ids=" ".join)
def test_a_reader_who_has_gone_is_no_error_to_speak_of(arguments: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "testbed", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (READER_GONE, b"")


@pytest.mark.parametrize("redirection", ["2> /dev/full", "2>&-", "2>&- <&-"])
def test_remarks_that_cannot_be_written_change_nothing(redirection: str) -> None:
    assert shell(redirection, ["replay", "nowhere.yaml"]).returncode == 2
    done = shell(redirection, ["policies", "--json"])
    assert done.returncode == 0 and done.stdout.startswith(b"[")


def test_with_every_stream_closed_no_file_of_ours_takes_their_place(tmp_path: Path) -> None:
    out = tmp_path / "trace.csv"
    arguments = ["traces", "generate", "outage", "--target", "link/b", "--set", "at=3", "--out", str(out)]
    assert shell(">&- 2>&- <&-", arguments).returncode == 3
    assert out.read_text().startswith("time,target,quantity,value\n")


def test_an_encoding_without_our_characters_gets_escapes() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    for more in ([], ["--json"]):
        command = [sys.executable, "-m", "testbed", "topologies", "list", *more]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, b"")


HOSTILE = "a\x1b]0;owned\x07\x1b[31m\x9b2J\u202eb\r\x7f\udcff"


def test_control_characters_never_reach_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table({"name": HOSTILE}, [{"name": HOSTILE}, {"name": [HOSTILE]}])
    print_json({HOSTILE: HOSTILE})
    echo(f"first {HOSTILE}\nsecond")
    echo(HOSTILE, err=True)
    assert run(["replay", HOSTILE.replace("\udcff", "")]) == 2
    assert run(["replay", "x.yaml", f"--{HOSTILE[:-1]}"]) == 2
    assert run([HOSTILE[:-1]]) == 2
    told = capsys.readouterr()
    for text in (told.out, told.err):
        assert all(one.isprintable() or one == "\n" for one in text), text
    assert "\\x1b[31m\\x9b2J\\u202eb\\r\\x7f\\udcff" in told.out


def test_what_is_printable_stays_as_it_is() -> None:
    assert printable("λ × 3 – «ü» 日本") == "λ × 3 – «ü» 日本"


def test_an_argument_that_is_not_utf_8_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["replay", "\udcff.yaml"]) == 2
    assert capsys.readouterr().err == "Error: the argument '\\udcff.yaml' is not UTF-8 text\n"


LONG = "n" * 100


def test_a_value_of_thousands_of_characters_is_not_repeated_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["policies", "--" + "9" * 50_000]) == 2
    assert len(capsys.readouterr().err) < 5000


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], int]:
    def run_failing(error: BaseException) -> int:
        def fail(**_: Any) -> None:
            raise error

        monkeypatch.setattr(cli.cli, "main", fail)
        return run([])

    return run_failing


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 3, "No space left on device"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), 3, "runs/x: No space left on device"),
        (OSError(errno.EMFILE, "Too many open files", "runs/x"), 3, "runs/x: Too many open files"),
        (OSError(errno.EIO, "Input/output error", b"runs/\xff"), 3, "runs/\\udcff: Input/output error"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 3, "Disk quota exceeded"),
        (OSError(errno.EFBIG, "File too large", "x"), 3, "x: File too large"),
        (OSError(errno.ELOOP, "Too many levels of symbolic links", "x"), 2, "x: Too many levels of symbolic links"),
        (OSError(errno.EISDIR, "Is a directory", "x"), 2, "x: Is a directory"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "n" * 5000), 2, f"{LONG}...{LONG}: File name too long"),
        (MemoryError(), 3, "this machine has not enough memory for that"),
        (MemoryError("7 TiB"), 3, "this machine has not enough memory for that (7 TiB)"),
        (UnicodeEncodeError("utf-8", "x\udcff", 1, 2, "surrogates not allowed"), 2, "'x\\udcff' is not UTF-8 text"),
    ],
    ids=str,
)  # fmt: skip
def test_what_the_user_or_the_machine_did_is_one_sentence(
    fails: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str], error: Exception, code: int, told: str
) -> None:
    assert fails(error) == code
    assert capsys.readouterr().err == f"Error: {told}\n"


@pytest.mark.parametrize(
    "error", [OSError(errno.EBADF, "Bad file descriptor"), UnicodeEncodeError("ascii", "ü", 0, 1, "no")], ids=str
)
def test_a_bug_of_ours_keeps_its_traceback(fails: Callable[[BaseException], int], error: Exception) -> None:
    with pytest.raises(type(error)):
        fails(error)
