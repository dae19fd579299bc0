"""Tables on terminals: what fits, what wraps, what is turned or divided, and that nothing is broken."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.cli import show
from testbed.cli.show import print_table
from testbed.cli.summary import TABLE
from testbed.cli.table import Column, lay_out

RUN = "20260101T000000Z-quickstart-resource-aware"
SUMMARY = {
    "policy": "resource-aware", "backend": "mininet", "status": "done", "tokens": 96, "p50": 287.8123, "p95": 290.3,
    "migrations": 48, "moved_mb": 1.147, "stall_s": 0.2188, "oom_kills": 0, "error_percent": 18220.4,
    "verdict": "faithful",
}  # fmt: skip


def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make standard output a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(show.sys.stdout, "isatty", lambda: True)


def test_the_summary_of_a_run_fits_80_columns_and_breaks_no_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow(monkeypatch)
    print_table(TABLE, [SUMMARY])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    words = " ".join(lines).split()
    for word in ("migrations", "resource-aware", "prediction", "287.8", "18,220", "faithful"):
        assert word in words


def test_a_table_of_runs_fits_80_columns_and_names_can_be_copied(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow(monkeypatch)
    from testbed.cli.run_table import HEADINGS

    row = {"name": RUN, "status": "done", "policy": "resource-aware", "backend": "mininet", "tokens": 96,
           "mean_token_ms": 270.31, "migrations": 48, "size": "1.25 MiB"}  # fmt: skip
    print_table(HEADINGS, [row] * 10)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith(f"{RUN} ") for line in lines) >= 10
    print_table(HEADINGS, [row])
    assert f"run         {RUN}" in capsys.readouterr().out


def test_a_pipe_gets_every_row_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_table({"a": "a long heading", "b": "b"}, [{"a": "x" * 300, "b": "a sentence of several words " * 20}])
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.startswith("a long heading") and row.startswith("x" * 300)


@pytest.mark.parametrize("variable", [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_nobody_who_asks_for_no_colour_gets_escape_sequences(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: tuple[str, str]
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(show.sys.stdout, "isatty", lambda: True)
    assert show.bold("heading") == "\x1b[1mheading\x1b[0m"
    monkeypatch.setenv(*variable)
    assert show.bold("heading") == "heading"


def test_sentences_wrap_before_anything_else_is_done() -> None:
    told = "places once, as the experiment says, and never moves anything at all, whatever happens"
    (block,) = lay_out([Column("policy", ["static"]), Column("what it does", [told])], 60)
    assert len(block.lines) > 1 and all(len(line) <= 60 for line in block.lines)
    assert " ".join(line[6:].strip() for line in block.lines) == told


def test_many_rows_are_divided_and_each_part_has_the_names() -> None:
    columns = [Column("name", [f"device-{number}" for number in range(9)])]
    columns += [Column(heading, ["123456789"] * 9, numeric=True) for heading in "abcdefgh"]
    blocks = lay_out(columns, 40)
    assert len(blocks) > 1
    for block in blocks:
        assert len(block.lines) == 9 and all(line.startswith("device-") for line in block.lines)
    told_apart = lay_out(columns, 60, keys=2)  # as the swept keys and the policy of a sweep
    assert len(told_apart) > 1 and all("123456789" in line[8:19] for block in told_apart for line in block.lines)
    assert {"".join(block.headings).split()[1] for block in told_apart} == {"a"}


def test_sentences_of_a_divided_table_wrap_in_its_part() -> None:
    columns = [Column("name", ["link-collapse"] * 4), Column("what happens", ["a link falls and comes back " * 4] * 4)]
    columns.append(Column("file", ["/a/path/that/nobody/may/break/anywhere.csv"] * 4))
    blocks = lay_out(columns, 60)
    assert len(blocks) > 1 and max(len(line) for block in blocks for line in block.lines) <= 60


WORDS = st.text("abc xyz", min_size=0, max_size=40)


@given(
    st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=4, max_size=4)), min_size=1, max_size=8), st.integers(20, 120)
)
def test_no_word_is_ever_broken(table: list[tuple[str, list[str]]], width: int) -> None:
    columns = [Column(heading, cells) for heading, cells in table]
    shown = [line for block in lay_out(columns, width) for line in (*block.headings, *block.lines)]
    words = set(itertools.chain.from_iterable(line.split() for line in shown))
    for heading, cells in table:
        assert set(heading.split()) <= words
        assert all(set(cell.split()) <= words for cell in cells)
