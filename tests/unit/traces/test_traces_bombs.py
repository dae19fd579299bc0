"""Trace files and options that would take all time or memory: one sentence each, before anything is made."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from trace_files import refused

from testbed.cli import run
from testbed.errors import ConfigError
from testbed.traces import Change, Trace, lines, model
from testbed.traces.generate import generate

LINK = {"target": "link/b", "direction": "both"}


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        ("t.up", "0\n999999999999999\n", {}, "covers 1e+12 s in windows of 1 s, and at most 200000 changes are held"),
        ("t.up", "0\n99999999\n", {"bin_s": 1e-3}, "covers 100000 s in windows of 0.001 s"),
        ("t.up", "0\n9\n", {"bin_s": 1e-9}, "1e-09 is not a window"),
        ("t.up", "0\n9\n", {"bin_s": 10**400}, "is not a window"),
        ("t.up", "0\n9\n", {"bin_s": float("nan")}, "nan is not a window"),
        ("t.pensieve", "0 1\n5e-10 2\n1e-9 3\n", {}, "its loop of 1e-09 has 2 steps, which is over 2000 a second"),
        ("t.pensieve", "0 1\n1 2\n2 3\n", {"period": 10**400}, "is not a period"),
        ("t.pensieve", "0 1\n1 2\n2 3\n", {"period": float("nan")}, "nan is not a period"),
        ("t.pensieve", "0 1\n1 nan\n", {}, "line 2: 'nan' is not a rate"),
        ("t.pensieve", "0 1\n1 inf\n", {}, "line 2: 'inf' is not a rate"),
        ("t.pensieve", "0 1\n1 1e15\n", {}, "up of link/b cannot be 1e+21"),
        ("t.json", "[" * 100_000, {}, "the file is not JSON"),
    ],
)
def test_a_small_file_that_stands_for_too_much_is_one_sentence(tmp_path, name, text, options, message):
    path = tmp_path / name
    path.write_text(text)
    refused(path, message, **LINK | options)


def test_stamps_of_a_clock_are_no_fifty_years_of_silence(tmp_path):
    path = tmp_path / "t.up"
    path.write_text("1600000000000\n1600000000500\n1600000002000\n")
    assert Trace.load(path, **LINK).period == 2


@pytest.mark.parametrize("name", ["t.pensieve", "t.csv", "t.log"])
def test_a_file_of_more_lines_than_are_read_is_one_sentence(tmp_path, monkeypatch, name):
    monkeypatch.setattr(lines, "MOST_LINES", 100)
    path = tmp_path / name
    path.write_text("1 1\n" * 101)
    refused(path, "the file has 101 lines, and at most 100 are read", **LINK)


def test_a_trace_of_more_rows_than_are_held_is_one_sentence(monkeypatch):
    monkeypatch.setattr(model, "MOST_CHANGES", 3)
    with pytest.raises(ConfigError, match="it has 4 rows, and at most 3 are held"):
        Trace(tuple(Change(float(time), "link/b", "up", 1.0) for time in range(4)))


def test_a_million_packets_are_read_at_once_and_a_wrong_line_among_them_is_found(tmp_path):
    path = tmp_path / "t.up"
    text = "".join(f"{number // 10}\n" for number in range(1_000_000))
    path.write_text(text)
    assert Trace.load(path, **LINK).period == 99.999
    path.write_text(f"{text}99999 9\n")
    refused(path, "line 1000001: '99999 9' is not a time", **LINK)


def test_what_is_no_file_is_one_sentence(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    refused(tmp_path / "pipe.csv", "it is a pipe, not a file", **LINK)
    for path in ("/dev/zero", "/dev/full", "/dev/null"):
        refused(Path(path), "it is a device, not a file", **LINK)
    refused(tmp_path / ("x" * 300), "File name too long", **LINK)
    refused(Path("no\0name"), "cannot be the name of a file", **LINK)
    refused(tmp_path / "no\x1b[31m\nsuch.csv", r"no\x1b[31m\nsuch.csv: there is no such file", **LINK)


@pytest.mark.parametrize("name", ["-", "--json", "a b'c\".csv", "ü\u202e.csv", "x" * 250 + ".csv", "\x1b[2J.csv"])
def test_files_of_odd_names_are_read_and_their_names_escaped(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    Path(name).write_text("time,target,quantity,value\n0,link/b,up,1 bit/s\n")
    assert run(["traces", "show", "--", name]) == 0
    assert run(["traces", "import", "--out", f"./{name}", "--", name]) == 0
    assert not re.search(r"[\x1b\u202e]", capsys.readouterr().out)
    Path(name).write_text("time,target,quantity,value\n0,link/b,up,\x1b[2J\n")
    assert run(["traces", "show", "--", name]) == 2
    assert not re.search(r"[\x1b\u202e]", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("cellular-walk", {"length": "1e9"}, "a cellular walk of 1e\\+09 in steps of 8 has over 100000 steps"),
        ("cellular-walk", {"length": "1e18"}, "1e\\+18 is not a time"),
        ("cellular-walk", {"step": "1e-18"}, "over 100000 steps"),
        ("outage", {"at": "1e308"}, "is not a time"),
        ("outage", {"at": 10**400}, "is not a time"),
        ("outage", {"at": float("nan")}, "nan is not a time"),
        ("outage", {"rate": "1e300 Mbit/s"}, "is not a link rate"),
    ],
)
def test_a_generator_asked_for_more_than_can_be_held_says_so(kind, options, message):
    with pytest.raises(ConfigError, match=message):
        generate(kind, "link/b", 0, options)
