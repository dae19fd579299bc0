"""A simulation takes a prompt's tokens from another process before, as long as nothing about them has changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from testbed.experiment import kept_prompts
from testbed.experiment.kept_prompts import MOST_PROMPTS, MOST_TOKENS, key_of, remember, remembered


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where prompts are remembered in a test."""
    file = tmp_path / "cache" / "prompts.json"
    monkeypatch.setenv("TESTBED_PROMPTS", str(file))
    return file


def test_tokens_are_remembered_under_their_key_alone(kept: Path) -> None:
    remember("one", [1, 2])
    remember("two", [3])
    assert (remembered("one"), remembered("two"), remembered("three")) == ([1, 2], [3], None)
    assert [file.name for file in kept.parent.iterdir()] == [kept.name]


def test_a_key_changes_with_whatever_the_tokens_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    about = ("Why?", Path("model.gguf"), (1, 2), 100)
    others = [("Who?", *about[1:]), (about[0], Path("x"), *about[2:]), (*about[:2], (1, 3), 100), (*about[:3], 101)]
    keys = {key_of(*about), *(key_of(*other) for other in others)}
    monkeypatch.setattr(kept_prompts.time, "strftime", lambda form: "another day")
    keys.add(key_of(*about))
    assert len(keys) == 6


def test_only_the_last_prompts_are_remembered_and_no_very_long_ones(kept: Path) -> None:
    for number in range(MOST_PROMPTS + 1):
        remember(str(number), [number])
    remember("long", [1] * (MOST_TOKENS + 1))
    assert remembered("0") is None and remembered("1") == [1] and remembered("long") is None


@pytest.mark.parametrize("content", ["", "[1]", '{"key": []}', '{"key": ["1"]}', '{"key": [true]}', '{"key": 1}'])
def test_a_damaged_file_counts_as_none(kept: Path, content: str) -> None:
    kept.parent.mkdir()
    kept.write_text(content)
    assert remembered("key") is None
    remember("key", [1])
    assert remembered("key") == [1]


def test_a_folder_that_cannot_be_written_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESTBED_PROMPTS", os.devnull + "/none/prompts.json")
    remember("key", [1])
    assert remembered("key") is None
