"""`testbed plan` answers in 80 columns or as JSON, and refuses what does not fit; the page of questions is true."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from testbed.cli import run

PAGE = Path(__file__).parents[3] / "docs" / "plan.md"
SHOWN = re.findall(r"```(?:sh|text)\n\$ (testbed plan .*)\n((?:.*\n)*?)```", PAGE.read_text())
NUMBER = re.compile(r"[+-]?\d[\d.,]*")


def form(text: str) -> str:
    """A text without the values of its numbers, and without spaces that align them."""
    return re.sub(r"\s+", " ", NUMBER.sub("N", text)).strip()


def test_the_page_asks_four_questions() -> None:
    assert len(SHOWN) >= 4


@pytest.mark.parametrize(("command", "printed"), SHOWN, ids=[command for command, _ in SHOWN])
def test_each_command_of_the_page_prints_what_the_page_shows(
    command: str, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(shlex.split(command)[1:])
    told = capsys.readouterr()
    found = form(told.out + told.err)
    assert code == (2 if "Error:" in printed else 0)
    for part in printed.split("[...]\n"):
        assert form(part) in found


def test_the_answer_has_at_most_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "llama-3.2-1b", "3 x raspberry-pi-5 16GB", "--target", "9 tok/s"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert max(map(len, told)) <= 80
    assert any(line.startswith("The target of 9 tok/s is") for line in told)


def test_json_has_the_whole_answer_also_of_what_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "llama-3.2-1b", "star4", "--json"]) == 2
    told = capsys.readouterr()
    assert json.loads(told.out)["fits"] is False
    assert told.err.startswith("Error: llama-3.2-1b does not fit on star4: in q4_0")
    assert run(["plan", "tiny", "star4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] and found["joules_per_token"] is None and found["power_unknown"]


def test_a_target_that_is_no_speed_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "tiny", "star4", "--target", "quick"]) == 2
    assert "quick" in capsys.readouterr().err
