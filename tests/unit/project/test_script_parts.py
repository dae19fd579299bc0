"""Scripts of several parts say in the end how long each took, however it came to the end."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

PARTS = Path(__file__).parents[3] / "script/parts"
STOPPING = f"set -euo pipefail; . {PARTS}\n"
GOING_ON = f"set -uo pipefail; . {PARTS}\nfailed=0\n"


def lines(script: str, code: int) -> list[str]:
    """What a script prints after its parts' own output, times left out."""
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return [re.sub(r" +[\d.]+ s", " T", line) for line in done.stdout.rpartition("\n\n")[2].splitlines()]


def test_each_part_has_a_line() -> None:
    told = lines(f"{STOPPING}part one true; part 'the second' sleep 0.1", 0)
    assert told == ["one T   passed", "the second T   passed", "together T"]


def test_a_part_that_fails_ends_the_script_with_its_exit_code_and_the_lines_so_far() -> None:
    told = lines(f"{STOPPING}part one true; part two sh -c 'exit 3'; part three true", 3)
    assert told == ["one T   passed", "two T   FAILED with exit code 3", "together T"]


def test_a_script_may_go_on_after_a_part_that_fails() -> None:
    told = lines(f"{GOING_ON}part one false || failed=1\npart two true || failed=1\nexit $failed", 1)
    assert told == ["one T   FAILED with exit code 1", "two T   passed", "together T"]


@pytest.mark.parametrize("signal, code", [("INT", 130), ("TERM", 143)])
def test_a_script_that_is_ended_tells_of_the_part_that_was_cut_short(signal: str, code: int) -> None:
    told = lines(f"{STOPPING}part one true; part two kill -{signal} $$", code)
    assert told[0] == "one T   passed" and told[1].startswith("two ") and told[2] == "together T"
