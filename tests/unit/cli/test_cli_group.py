"""The command itself: what it loads, how long it takes, how it ends."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import click
import pytest
from host_pace import AGAIN, judging_time

from testbed import __version__
from testbed.cli import VERBS, run
from testbed.errors import ConfigError, EnvironmentLacks, FidelityError, RunFailed, TestbedError

ROOT = Path(__file__).parents[3]
HEAVY = ("torch", "numpy", "pandas", "matplotlib", "pyarrow", "zmq", "mininet", "rich", "yaml", "pydantic")


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A verb `clean` whose callback a test sets as `body`."""
    module = ModuleType("testbed.cli.clean")

    @click.command()
    @click.option("--times", type=int, default=1)
    @click.pass_context
    def command(ctx: click.Context, times: int) -> None:
        """Stand in for the verb.

        Example: testbed clean
        """
        module.body(ctx, times)

    module.command = command  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "testbed.cli.clean", module)
    return module


def test_help_names_every_verb_and_imports_none() -> None:
    code = (
        "import sys; from testbed.cli import VERBS, run; assert run(['--help']) == 0;"
        "print([name for name in sys.modules if name.removeprefix('testbed.cli.') in VERBS"
        f" or name.partition('.')[0] in {HEAVY!r}])"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    *help_text, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    for name, line in VERBS.items():
        assert any(name in text and line in text for text in help_text), name


@AGAIN
def test_help_takes_at_most_three_times_as_long_as_importing_click() -> None:
    def seconds(*arguments: str) -> float:
        begin = time.perf_counter()
        assert python(*arguments).returncode == 0
        return time.perf_counter() - begin

    pairs = [(seconds("-c", "import click"), seconds("-m", "testbed", "--help")) for _ in range(7)]
    click_s, help_s = (statistics.median(times) for times in zip(*pairs, strict=True))
    with judging_time():
        assert help_s <= 3 * click_s


@pytest.mark.parametrize(
    "arguments", [["--colour"], ["clean", "--tims", "2"], ["clean", "--times", "two"], ["clean", "extra"]]
)
def test_bad_usage_is_one_sentence_and_exit_code_2(
    verb: ModuleType, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: ") and error.count("\n") == 1
    assert "--help`" in error


@pytest.mark.parametrize(
    ("kind", "code"), [(ConfigError, 2), (EnvironmentLacks, 3), (FidelityError, 4), (RunFailed, 5), (TestbedError, 5)]
)
def test_an_error_of_the_testbed_is_one_sentence_and_its_own_exit_code(
    verb: ModuleType, capsys: pytest.CaptureFixture[str], kind: type[TestbedError], code: int
) -> None:
    def body(ctx: click.Context, times: int) -> None:
        raise kind("device b has 96 MiB but its blocks need 112 MiB")

    verb.body = body  # type: ignore[attr-defined]
    assert run(["clean"]) == code
    captured = capsys.readouterr()
    assert captured.err == "Error: device b has 96 MiB but its blocks need 112 MiB\n"
    assert captured.out == ""


def test_a_bug_keeps_its_traceback(verb: ModuleType) -> None:
    def body(ctx: click.Context, times: int) -> None:
        raise KeyError("bug")

    verb.body = body  # type: ignore[attr-defined]
    with pytest.raises(KeyError):
        run(["clean"])


def test_a_file_that_may_not_be_written_is_the_users_to_mend(
    verb: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def body(ctx: click.Context, times: int) -> None:
        raise PermissionError(13, "Permission denied", "/root/figures")

    verb.body = body  # type: ignore[attr-defined]
    assert run(["clean"]) == 2
    assert capsys.readouterr().err == "Error: /root/figures: Permission denied\n"


def test_a_verb_sets_its_exit_code_through_the_context(verb: ModuleType) -> None:
    verb.body = lambda ctx, times: ctx.exit(4)  # type: ignore[attr-defined]
    assert run(["clean"]) == 4
    verb.body = lambda ctx, times: None  # type: ignore[attr-defined]
    assert run(["clean"]) == 0


def test_every_option_can_come_from_the_environment(verb: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    verb.body = lambda ctx, times: seen.append(times)  # type: ignore[attr-defined]
    monkeypatch.setenv("TESTBED_CLEAN_TIMES", "7")
    assert run(["clean"]) == 0
    assert seen == [7]


def test_ctrl_c_ends_with_130_and_no_traceback() -> None:
    code = """
import signal, sys, types, click
module = types.ModuleType("testbed.cli.clean")
module.command = click.Command("clean", callback=lambda: (print("waiting", flush=True), signal.pause()))
sys.modules["testbed.cli.clean"] = module
from testbed.cli import run
sys.exit(run(["clean"]))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    os.kill(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert error.strip() == "Interrupted."


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"testbed, version {__version__}\n"


def test_without_a_verb_the_help_is_shown() -> None:
    done = python("-m", "testbed")
    assert done.returncode == 2
    assert "Commands:" in done.stderr
