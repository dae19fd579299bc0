"""The importers of recorded link traces: mahimahi, Pensieve, G-NetTrack, raw HSDPA and 4G, Sabre."""

from __future__ import annotations

import csv
import os
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trace_files import GNETTRACK, LINK, put, refused

from testbed.traces import Trace, TraceSet, native, summarise

REPOSITORY = Path(__file__).parents[3]
SHARED = Path(os.environ.get("HEADROOM_SHARED_TRACES", REPOSITORY.parent / "shared" / "traces"))


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"the public trace {path} is not here (set HEADROOM_SHARED_TRACES to its folder)")
    return path


# -- mahimahi


def test_one_opportunity_a_millisecond_is_12_mbit_per_second(tmp_path):
    trace = Trace.load(put(tmp_path, "t.mahimahi", "1\n"), target="link/b", direction="both")
    assert (trace.end, trace.period) == ("loop", 0.001)
    assert TraceSet((trace,)).at(17.3) == {
        ("link/b", "up"): pytest.approx(12e6),
        ("link/b", "down"): pytest.approx(12e6),
    }
    assert TraceSet((trace,)).changes_between(0, 1e6) == []


def test_opportunities_are_counted_per_window_and_a_window_without_one_is_an_outage(tmp_path):
    path = put(tmp_path, "t.mahimahi", "0\n999\n1000\n1000\n1000\n3000\n4000\n")
    trace = Trace.load(path, **LINK)
    rates = [value for _, value in trace.rows["link/b", "down"]]
    assert rates == [2 * 12000, 3 * 12000, 0, 2 * 12000]
    assert TraceSet((trace,)).at(5.5) == {("link/b", "down"): 36000}


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=60), st.sampled_from([0.1, 0.3, 0.7, 1.0, 10.0]))
def test_the_mean_rate_of_a_lap_is_that_of_the_file_for_any_window(tmp_path_factory, stamps, bin_s):
    stamps = [*sorted(stamps), max(stamps) + 1]
    path = tmp_path_factory.getbasetemp() / "mean.mahimahi"
    path.write_text("\n".join(map(str, stamps)) + "\n")
    trace = Trace.load(path, **LINK, bin_s=bin_s)
    (summary,) = summarise(trace)
    assert trace.period == stamps[-1] / 1000
    assert summary.mean == pytest.approx(len(stamps) * 1500 * 8 / trace.period)


@pytest.mark.parametrize("name", ["verizon-lte-short.up.mahimahi", "att-lte-driving-2016.up.mahimahi"])
def test_a_recorded_mahimahi_trace_keeps_its_mean_rate_and_its_period(name):
    path = shared(name)
    stamps = [int(line) for line in path.read_text().split()]
    trace = Trace.load(path, target="link/b", direction="up")
    (summary,) = summarise(trace)
    assert summary.quantity == "up"
    assert summary.count == stamps[-1] // 1000
    assert summary.mean == pytest.approx(len(stamps) * 1500 * 8 / (stamps[-1] / 1000))
    both = TraceSet((trace,))
    assert both.at(trace.period + 3.5) == both.at(3.5) != both.at(trace.period - 0.5)


# -- Pensieve


def test_a_pensieve_rows_rate_is_in_force_up_to_its_time_and_the_trace_begins_at_the_first_row(tmp_path):
    text = "180 0.462624\n185 1.115528\n190 2.758448\n195 0.786616\n200 3.1\n"
    trace = Trace.load(put(tmp_path, "t.pensieve", text), **LINK)
    (summary,) = summarise(trace)
    assert (trace.end, trace.period, round(summary.mean / 1e6, 3)) == ("loop", 20, 1.940)
    assert [(time, round(rate / 1e6, 6)) for time, rate in trace.rows["link/b", "down"]] == [
        (0, 1.115528), (5, 2.758448), (10, 0.786616), (15, 3.1),
    ]  # fmt: skip


def test_a_pensieve_trace_by_a_unix_clock_lasts_as_long_as_its_rows_do(tmp_path):
    trace = Trace.load(put(tmp_path, "t.pensieve", "1285060000.5 1\n1285060001.5 2\n1285060004.5 8\n"), **LINK)
    assert trace.period == 4
    assert trace.rows == {("link/b", "down"): [(0, 2e6), (1, 8e6)]}


def test_of_pensieve_rows_of_the_same_time_the_later_are_in_force_for_no_time(tmp_path):
    trace = Trace.load(put(tmp_path, "t.pensieve", "0.5\t1.5\n 2 3\n2 4\n\n6 0\n6 9"), **LINK)
    assert (trace.period, trace.rows["link/b", "down"]) == (5.5, [(0, 3e6), (1.5, 0)])


@pytest.mark.parametrize("name", ["norway-tram-10.pensieve", "norway-train-1.pensieve", "oboe-12.pensieve"])
def test_a_recorded_pensieve_trace_has_the_mean_that_its_simulator_plays(name):
    path = shared(name)
    rows = [tuple(map(float, line.split())) for line in path.read_text().splitlines()]
    trace = Trace.load(path, **LINK)
    length = rows[-1][0] - rows[0][0]
    bits = sum((time - before) * rate * 1e6 for (before, _), (time, rate) in pairwise(rows))
    (summary,) = summarise(trace)
    assert trace.period == pytest.approx(length)
    assert summary.mean == pytest.approx(bits / length)


# -- Irish 5G


def stamped(*rows: tuple[int, str, str]) -> str:
    return GNETTRACK + "".join(f"2019.12.14_10.16.{second:02},-8.3,{down},{up},D\n" for second, down, up in rows)


def test_repeated_skipped_and_backward_seconds_follow_the_documented_rule(tmp_path):
    text = stamped((30, "7", "1"), (31, "9", "2"), (31, "8", "-"), (35, "4", "5"), (33, "0", "6"), (36, "1", "1"))
    trace = Trace.load(put(tmp_path, "g.csv", text), target="link/b", direction="both")
    assert trace.rows == {
        ("link/b", "down"): [(0, 7e3), (1, 8e3), (3, 0), (5, 4e3), (6, 1e3)],
        ("link/b", "up"): [(0, 1e3), (1, 2e3), (3, 6e3), (5, 5e3), (6, 1e3)],
    }
    assert (trace.end, trace.period) == ("loop", 6)


@pytest.mark.parametrize(("direction", "column"), [("down", "DL_bitrate"), ("up", "UL_bitrate")])
def test_a_recorded_5g_drive_gives_the_last_value_of_every_second(direction, column):
    path = shared("irish-5g-driving-download.csv")
    with path.open() as file:
        rows = [(datetime.strptime(r["Timestamp"], "%Y.%m.%d_%H.%M.%S"), r[column]) for r in csv.DictReader(file)]
    expected = {(stamp - rows[0][0]).total_seconds(): float(rate) * 1e3 for stamp, rate in rows}
    trace = Trace.load(path, target="link/b", direction=direction)
    assert dict(trace.rows["link/b", direction]) == expected
    assert trace.period == max(expected)


# -- raw HSDPA and 4G logs

NORWAY = """1285060000 100000 59.85 10.78 125000 1000
1285060001 101000 59.85 10.78 250000 1000
1285060002 103000 59.85 10.78 0 1500
"""
GHENT = """1453121790686 1001 51.03 3.72 125000 1000
1453121791686 2002 51.03 3.72 250000 0500
"""


def test_a_raw_log_of_bytes_begins_with_the_first_rows_milliseconds_and_keeps_all_bytes(tmp_path):
    trace = Trace.load(put(tmp_path, "report.2010-09-28_1407CEST.log", NORWAY), **LINK)
    assert trace.rows == {("link/b", "down"): [(0, 1e6), (1, 2e6), (2.5, 0)]}
    assert (trace.end, trace.period) == ("loop", 4)


def test_a_clock_in_milliseconds_and_padded_numbers_are_read_alike(tmp_path):
    trace = Trace.load(put(tmp_path, "report_bus_0001.log", GHENT), **LINK)
    assert trace.rows == {("link/b", "down"): [(0, 1e6), (1.501, 4e6)]}
    assert trace.period == 2.001


# -- Sabre


def test_sabres_periods_follow_one_another_and_begin_anew(tmp_path):
    text = """[
        {"duration_ms": 5000, "bandwidth_kbps": 1510, "latency_ms": 20}, {"duration_ms": 0, "bandwidth_kbps": 7},
        {"duration_ms": 2500.0, "bandwidth_kbps": 0, "latency_ms": 20}]"""
    trace = Trace.load(put(tmp_path, "trace.json", text), **LINK)
    assert trace.rows == {("link/b", "down"): [(0, 1510e3), (5, 0)]}
    assert (trace.end, trace.period) == ("loop", 7.5)


@pytest.mark.parametrize(
    "name", ["att-lte-driving-2016.up.mahimahi", "norway-tram-10.pensieve", "irish-5g-driving-download.csv"]
)
def test_an_imported_trace_keeps_its_values_and_its_loop_in_native_csv(tmp_path, name):
    trace = Trace.load(shared(name), target="link/b", direction="both")
    native.save(trace, tmp_path / "imported.csv")
    assert Trace.load(tmp_path / "imported.csv") == trace


# -- what is none of them

WRONG = [
    ("t.mahimahi", "1\n\n2\n", ", line 2: ", "the line is empty"),
    ("t.mahimahi", "5\n4\n", ", line 2: ", "the time steps backwards from 5 to 4 ms"),
    ("t.mahimahi", "0\n0\n", ", line 2: ", "the last time is 0 ms"),
    ("t.mahimahi", "1.5\n", ", line 1: ", "'1.5' is not a time"),
    ("t.mahimahi", "-1\n", ", line 1: ", "'-1' is not a time"),
    ("t.mahimahi", "٣\n", ", line 1: ", "is not a time"),
    ("t.mahimahi", "9" * 5000 + "\n", ", line 1: ", "is not a time"),
    ("t.pensieve", "0 1\n2 1\n1 1\n", ", line 3: ", "the time steps backwards from 2 to 1"),
    ("t.pensieve", "0 1 2\n", ", line 1: ", "the row has 3 columns"),
    ("t.pensieve", "0 1\n1 -2\n", ", line 2: ", "'-2' is not a rate in Mbit/s"),
    ("t.pensieve", "0 1\nx 2\n", ", line 2: ", "'x' is not a time in seconds"),
    ("t.irish5g", stamped((1, "7", "1")) + "1,2\n", ", line 3: ", "the row has 2 columns: the header has 5"),
    ("t.irish5g", stamped((1, "fast", "1")), ", line 2: ", "column DL_bitrate: 'fast' is not a number"),
    ("t.irish5g", stamped((1, "-7", "1")), ", line 2: ", "column DL_bitrate: '-7' is no rate"),
    ("t.irish5g", stamped((61, "7", "1")), ", line 2: ", "'2019.12.14_10.16.61' is not a time"),
    ("t.irish5g", stamped((1, "-", "1"), (2, "-", "1")), "", "has no value in its column DL_bitrate"),
    ("t.irish5g", stamped((1, "7", "1"), (1, "8", "1")), "", "all its rows have the same time"),
    ("t.irish5g", GNETTRACK, "", "the log has no rows"),
    ("t.irish5g", GNETTRACK.replace("DL_", "dl"), ", line 1: ", "the header has no column 'DL_bitrate': it has"),
    ("t.hsdpa", "1 1000 1 1 5 1000\n1 900 1 1 5 1000\n", ", line 2: ", "the clock steps backwards from 1000 to 900"),
    ("t.hsdpa", "1 1000 59 10 5\n", ", line 1: ", "the row has 5 columns"),
    ("t.hsdpa", "1 1000 59 10 5 0\n", ", line 1: ", "5 bytes in 0 milliseconds are no rate"),
    ("t.hsdpa", "1 1000 59 10 0 0\n", "", "no row has milliseconds"),
    ("t.hsdpa", "1 1000 59 10 -5 1000\n", ", line 1: ", "'-5' is not a number of bytes"),
    ("t.json", "[1]", "", "period 1: it is 1, but it must be like {duration_ms"),
    ("t.json", '[{"duration_ms": 1}]', "", "period 1: bandwidth_kbps is nothing"),
    ("t.json", '[{"duration_ms": -1, "bandwidth_kbps": 1}]', "", "period 1: duration_ms is -1"),
    ("t.json", '[{"duration_ms": NaN, "bandwidth_kbps": 1}]', "", "period 1: duration_ms is nan"),
    ("t.json", '[{"duration_ms": true, "bandwidth_kbps": 1}]', "", "period 1: duration_ms is True"),
    ("t.json", "[]", "", "no period has a duration above 0"),
    ("t.json", '{"a": 1}', "", "a Sabre trace is a list of periods"),
    ("t.json", "[" * 10**6, "", "the file is not JSON"),
    ("t.json", "[" + "9" * 5000 + "]", "", "the file is not JSON"),
]


@pytest.mark.parametrize(("name", "text", "where", "message"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_file_is_one_sentence_with_file_and_line(tmp_path, name, text, where, message):
    path = put(tmp_path, name, text)
    told = {"t.irish5g": "irish5g", "t.hsdpa": "hsdpa"}.get(name)
    refused(path, message, f"{path}{where}", told, **LINK)
