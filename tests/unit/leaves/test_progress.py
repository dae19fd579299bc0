"""Text that grows on a terminal above a progress bar, and what is escaped in it."""

from __future__ import annotations

import re
from contextlib import redirect_stdout

import pytest
from terminals import Terminal

from testbed.progress import readable, text_above_bar


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    return Terminal()


def test_text_stays_in_lines_and_the_bar_is_gone_at_the_end(terminal: Terminal) -> None:
    words = re.split(
        "(?<= )", "The sky is blue because\n\nlight of short waves is scattered more than that of long ones."
    )
    seen = []
    with redirect_stdout(terminal), text_above_bar(len(words), "greedy") as show:
        for done, word in enumerate(words, 1):
            show(done, word)
            seen.append(terminal.screen())
    assert [line for line in terminal.screen() if line] == [
        "The sky is blue because", "light of short waves is scattered more", "than that of long ones.",
    ]  # fmt: skip
    assert any("greedy" in line for line in seen[5]) and any("is blue because" in line for line in seen[5])
    assert all("light of short" not in line for line in seen[4])


def test_a_word_in_pieces_is_not_torn(terminal: Terminal) -> None:
    with redirect_stdout(terminal), text_above_bar(4, "x") as show:
        for done, piece in enumerate(["a" * 30, " bbb", "bbbbb", "bbbb"], 1):
            show(done, piece)
    assert [line for line in terminal.screen() if line] == ["a" * 30, "b" * 12]


def test_a_terminal_that_goes_away_is_no_error(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    with redirect_stdout(terminal), text_above_bar(2, "x") as show:
        show(1, "one\n")

        def gone(text: str) -> int:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(terminal, "write", gone)
        show(2, "two\n")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a\tb\nc", "a\tb\nc"),
        ("\x1b[2J\r\x07", "\\x1b[2J\\r\\x07"),
        ("\u202e\u2066\x9b1m", "\\u202e\\u2066\\x9b1m"),
        ("日本\u3000語\u00a0x", "日本\u3000語\u00a0x"),
        ("👩\u200d👧 \ufffd", "👩\u200d👧 \ufffd"),
    ],
)
def test_control_characters_in_a_text_are_escaped_and_what_people_write_is_not(text: str, wanted: str) -> None:
    assert readable(text) == wanted
