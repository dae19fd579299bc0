"""Any log with a header: columns, units, numbers and times as people write them, runs, and known layouts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from trace_files import refused

from testbed.cli import run
from testbed.errors import ConfigError
from testbed.experiment.schema import Experiment
from testbed.traces import Trace, columns, summarise

B = {"target": "link/b"}
NAMED = B | {"time": "time_s", "down": "dl_kbps"}


def put(folder: Path, text: str, name: str = "log.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def rows(trace: Trace, quantity: str = "down") -> list[tuple[float, float]]:
    return trace.rows["link/b", quantity]


def test_columns_are_named_and_units_told_by_their_names(tmp_path):
    text = "timestamp_ms,dl_kbps,ul_kbps\n1700000000000,5000,100\n1700000001000,6000,200\n1700000003000,1,2\n"
    trace = Trace.load(put(tmp_path, text), time="timestamp_ms", down="dl_kbps", up="ul_kbps", **B)
    assert rows(trace) == [(0, 5e6), (1, 6e6), (3, 1e3)]
    assert rows(trace, "up") == [(0, 1e5), (1, 2e5), (3, 2e3)]
    assert (trace.end, trace.period, trace.name) == ("loop", 3, "log")
    down, _ = summarise(trace)
    assert down.mean == pytest.approx((5e6 + 2 * 6e6) / 3)


@pytest.mark.parametrize(
    ("direction", "more", "expected"),
    [
        (None, {}, {"down": 1e3}),
        ("both", {}, {"down": 1e3, "up": 1e3}),
        ("up", {}, {"up": 1e3}),
        (None, {"up": "ul_bps"}, {"down": 1e3, "up": 7}),
        ("both", {"up": "ul_bps"}, {"down": 1e3, "up": 7}),
        ("up", {"up": "ul_bps"}, {"up": 7}),
    ],
)
def test_a_column_drives_its_direction_or_the_one_that_is_asked_for(tmp_path, direction, more, expected):
    path = put(tmp_path, "time_s,dl_kbps,ul_bps\n0,1,7\n1,1,7\n")
    trace = Trace.load(path, direction=direction, **NAMED, **more)
    assert {quantity: steps[0][1] for (_, quantity), steps in trace.rows.items()} == expected


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("dl_kbps", 1e3), ("DL_Mbps", 1e6), ("throughput_mbps", 1e6), ("MBPS", 1e6), ("rate_gbps", 1e9), ("x_bps", 1),
        ("rate_MBps", 8e6), ("rate_kBps", 8e3), ("rate_KBps", 8e3), ("Throughput (Mbit/s)", 1e6),
        ("rate [kbit/s]", 1e3), ("Throughput (MB/s)", 8e6), ("Throughput (Mb/s)", 1e6), ("bits_per_second", 1),
        ("rx bytes/s", 8), ("bytes_sec", 8), ("bytes_per_second", 8), ("throughputMbps", 1e6), ("rate_kbit_s", 1e3),
        ("Bandwidth(Mbits/sec)", 1e6), ("throughput", None), ("DL_bitrate", None), ("mobs", None), ("dlkbits", None),
        ("bps_max", None),
    ],
)  # fmt: skip
def test_a_unit_of_rate_is_told_by_a_columns_name_or_not_at_all(name, factor):
    assert columns.rate_factor_of(name) == factor


@pytest.mark.parametrize(
    ("name", "factor"),
    [("timestamp_ms", 1e-3), ("time (s)", 1), ("t[us]", 1e-6), ("seconds", 1), ("epoch_ns", 1e-9), ("timeMs", 1e-3),
     ("time", None), ("timestamp", None), ("items", None)],
)  # fmt: skip
def test_a_unit_of_time_is_told_by_a_columns_name_or_not_at_all(name, factor):
    assert columns.time_factor_of(name) == factor


@pytest.mark.parametrize(
    "times",
    [
        ("7", "8", "10.5"),
        ("1700000000", "1700000001", "1700000003.5"),
        ("1700000000000", "1700000001000", "1700000003500"),
        ("1700000000000000", "1700000001000000", "1700000003500000"),
        ("1700000000000000000", "1700000001000000000", "1700000003500000000"),
        ("1.7e9", "1.700000001e9", "1.7000000035e9"),
        ("2024-05-01T23:59:59Z", "2024-05-02T00:00:00Z", "2024-05-02T00:00:02.5Z"),
        ("2024-05-01 23:59:59+02:00", "2024-05-02 00:00:00+02:00", "2024-05-01 22:00:02.5+00:00"),
        ("2023-04-05 11:03:07 CDT", "2023-04-05 11:03:08 CDT", "2023-04-05 11:03:10.5 CDT"),
        ("2024/05/01 10:00:00", "2024/05/01 10:00:01", "2024/05/01 10:00:03.5"),
        ("10:00:00", "10:00:01", "10:00:03.500"),
    ],
)
def test_time_0_is_the_first_row_by_any_clock(tmp_path, times):
    path = put(tmp_path, "Timestamp,dl_kbps\n" + "".join(f"{time},{n + 1}\n" for n, time in enumerate(times)))
    trace = Trace.load(path, time="Timestamp", down="dl_kbps", **B)
    assert [(pytest.approx(time, abs=1e-6), rate) for time, rate in rows(trace)] == [(0, 1e3), (1, 2e3), (3.5, 3e3)]


def test_a_date_of_another_form_needs_its_form(tmp_path):
    path = put(tmp_path, "time,dl_kbps\n04/05/2024 11:03:07 PM,1\n04/05/2024 11:03:09 PM,1\n")
    with pytest.raises(ConfigError, match="line 2: '04/05/2024 11:03:07 PM' is not a time like .*: give time_format"):
        Trace.load(path, time="time", down="dl_kbps", **B)
    trace = Trace.load(path, time="time", down="dl_kbps", time_format="%d/%m/%Y %I:%M:%S %p", **B)
    assert trace.period == 2


@pytest.mark.parametrize(
    "text",
    [
        "\ufefftime_s,dl_kbps\r\n0,1000\r\n1,2000.5\r\n2,1\r\n",
        "time_s;dl_kbps\n0;1000\n1;2000,5\n2;1\n",
        "time_s;dl_kbps\n0;1.000,0\n1;2.000,5\n2;1,0\n",
        'time_s,dl_kbps\n0,"1,000.0"\n1,"2,000.5"\n2,1\n',
        "time_s\tdl_kbps\tnote\n0\t1000\t\n1\t2000.5\t\n2\t1\t\n",
        "time_s|dl_kbps\n0|1000\n1|2000.5\n2|1\n",
        "time_s   dl_kbps\n0  1000\n 1 2000.5\n\n2  1\n",
        "# a comment\n# time_s dl_kbps\n0 1000\n1 2000.5\n2 1\n",
        '"TIME_S" , "DL_kbps"\n'.replace(" ,", ",") + "0, 1000\n1, 2000.5\n# a pause\n2, 1\n",
        "time_s,dl_kbps,\n0,1000,\n1,2000.5,\n2,1,\n",
        "time_s,dl_kbps\n0,1000,\n1,2000.5,\n2,1,\n",
        "sep=;\ntime_s;dl_kbps\n0;1000\n1;2000.5\n2;1\n",
        "time_s,dl_kbps,what\n0,1000,ok\n1,2000.5,\n1.5,-,lost\n1.6,nan,lost\n1.7,,lost\n1.8,NA,lost\n2,1,\n",
        "time_s,dl_kbps\n0,9\n0,1000\n1,2000.5\n2,1\n",
    ],
)
def test_numbers_and_tables_are_read_as_people_and_spreadsheets_write_them(tmp_path, text):
    trace = Trace.load(put(tmp_path, text), **NAMED)
    assert (rows(trace), trace.period) == ([(0, 1e6), (1, 2000.5e3), (2, 1e3)], 2)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a,b\n1,2\n", {}, "line 1: the header has no column 'dl_kbps': it has a, b"),
        ("time_s,dl_kbps,DL_KBPS\n1,2,3\n", {"down": "Dl_Kbps"}, "line 1: the header has 2 columns 'Dl_Kbps'"),
        ("time_s,rate\n1,2\n", {"down": "rate"}, "the unit of column 'rate' is not clear from its name: give"),
        ("time_s,dl_kbps\n1,2\n", {"rate_unit": "parsec"}, "'parsec' is no unit of rate: write bit/s, kbit/s"),
        ("time_s,dl_kbps\n1,2\n", {"time_unit": "parsec"}, "'parsec' is no unit of time: write s, ms"),
        ("time_s,dl_kbps\n1,2\n", {"step": 1}, "name the column of its times by time, or seconds a row by step"),
        ("time_s,dl_kbps\n1,2\n", {"delimiter": "&"}, "the delimiter '&' is none of comma, semicolon"),
        ("time_s,dl_kbps\n1,2\n", {"decimal": "'"}, "the decimal sign"),
        ("time_s,dl_kbps\n1,2\n", {"group": "run"}, "the group 'run' is not one: write COLUMN=VALUE"),
        ("time_s,dl_kbps\n1,2\n", {"group": "run=1"}, "the header has no column 'run'"),
        ("time_s,dl_kbps\n1,2\n", {"bin_s": 1}, "a csv trace has no option 'bin_s'"),
        ("time_s,dl_kbps\n1,2\n", {"time": ["x"]}, "time is ['x'], but it must be a short text"),
        ("time_s,dl_kbps\n1,2\n", {"target": "device/b"}, "its target must be link/DEVICE"),
        ("time_s,dl_kbps\n1,2\n1,3\n", {}, "all its rows have the same time"),
        ("time_s,dl_kbps\n1,-\n2,nan\n", {}, "has no value in its column dl_kbps"),
        ("time_s,dl_kbps\n", {}, "the log has no rows"),
        ("time_s,dl_kbps\n0,1\n5,2\n3,4\n", {}, "line 4: the time steps backwards by 2 s: take one run by group"),
        ("time_s,dl_kbps\n0,1\n5,-1\n", {}, "line 3: column dl_kbps: '-1' is no rate; if it is no sample"),
        ("time_s,dl_kbps\n0,inf\n", {}, "line 2: column dl_kbps: 'inf' is not a number"),
        ("time_s,dl_kbps\n0,1e999\n", {}, "line 2: column dl_kbps: '1e999' is not a number"),
        ("time_s,dl_kbps\n0,fast\n", {}, "line 2: column dl_kbps: 'fast' is not a number"),
        ("time_s,dl_kbps\n0,5 Mbit/s\n", {}, "line 2: column dl_kbps: '5 Mbit/s' is not a number"),
        ("time_s,dl_kbps\n,5\n", {}, "line 2: '' is not a time"),
        ("time_s,dl_kbps\nnan,5\n", {}, "line 2: 'nan' is not a time"),
        ("time_s,dl_kbps\n0,5\n1,2,5\n", {}, "line 3: the row has 3 columns: the header has 2"),
        ("time_s,dl_kbps\n0,5\n1\n", {}, "line 3: the row has 1 columns: the header has 2"),
        ('time_s,dl_kbps\n0,"5\n', {}, "the line is not CSV"),
        ("time_s;dl_kbps\n0;1,234\n", {}, "'1,234' may be two numbers: say whether its decimal sign is '.' or ','"),
        ("time_s;dl_kbps\n0;1,5\n1;2.5\n", {}, "line 3: column dl_kbps: '2.5' is not a number whose decimal"),
    ],
)
def test_what_is_wrong_with_a_log_is_one_sentence(tmp_path, text, options, message):
    path = put(tmp_path, text)
    refused(path, message, str(path), "csv", **NAMED | options)


def test_options_say_what_neither_names_nor_numbers_tell(tmp_path):
    text = "when;rate\n0;1,234\n500;-1\n1000;lost\n2000;2,5\n"
    trace = Trace.load(
        put(tmp_path, text), time="when", time_unit="ms", down="rate", rate_unit="MB/s", decimal=",",
        missing=["-1", "lost"], **B,
    )  # fmt: skip
    assert rows(trace) == [(0, pytest.approx(1.234 * 8e6)), (2, 2.5 * 8e6)]
    thousands = Trace.load(put(tmp_path, "t;bps\n0;1,234\n1;2\n"), time="t", down="bps", decimal=".", **B)
    assert rows(thousands) == [(0, 1234), (1, 2)]


def test_columns_without_a_header_are_named_by_their_number(tmp_path):
    trace = Trace.load(put(tmp_path, "0,9,1.5\n1,9,2\n"), time="1", down="3", rate_unit="Mbit/s", **B)
    assert rows(trace) == [(0, 1.5e6), (1, 2e6)]


def test_a_step_stands_for_the_times_that_a_log_does_not_have(tmp_path):
    trace = Trace.load(put(tmp_path, "mbps,x\n1,\n2,\n3,\n"), step=0.5, down="mbps", **B)
    assert (rows(trace), trace.period) == ([(0, 1e6), (0.5, 2e6), (1, 3e6)], 1.5)


def test_rates_are_scaled_parts_taken_and_times_moved_in_any_format(tmp_path):
    path = put(tmp_path, "time_s,dl_kbps\n100,1\n110,2\n120,3\n130,9\n")
    part = Trace.load(path, scale=2, clip=(5, 25), **NAMED)
    assert (rows(part), part.period) == ([(0, 2e3), (5, 4e3), (15, 6e3)], 20)
    assert Trace.load(path, scale=2, clip="5,25", **NAMED) == part
    later = Trace.load(path, offset=7, **NAMED)
    assert (rows(later)[0], later.period) == ((7, 1e3), 37)
    inside = Trace.load(path, offset=-15, **NAMED)
    assert (rows(inside), inside.period) == ([(0, 2e3), (5, 3e3), (15, 9e3)], 15)
    cooked = Trace.load(put(tmp_path, "0 1\n1 2\n9 3\n", "t.pensieve"), scale=0.5, clip=(0, 2), direction="down", **B)
    assert (rows(cooked), cooked.period) == ([(0, 1e6), (1, 1.5e6)], 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip": (5, 5)}, "it cannot be clipped from 5 to 5: it lasts from 0 to 2"),
        ({"clip": (3, 5)}, "it cannot be clipped from 3 to 5: it lasts from 0 to 2"),
        ({"clip": "a,b"}, "'a,b' is no part of a trace (clip): its ends must be numbers"),
        ({"clip": "1"}, "'1' is no part of a trace (clip): write its two ends, like 10,60"),
        ({"clip": (float("nan"), 2)}, "nan is not an end of a part (clip)"),
        ({"offset": -2}, "it cannot be clipped from 2"),
        ({"offset": float("nan")}, "nan is not a number of seconds (offset)"),
        ({"scale": 0}, "0 is not a factor (scale)"),
        ({"scale": -1}, "-1 is not a factor (scale)"),
        ({"scale": 10**400}, "is not a factor (scale)"),
        ({"step": 1e-9, "time": None}, "1e-09 is not the seconds of a row (step)"),
    ],
)
def test_a_part_that_is_not_there_is_refused(tmp_path, options, message):
    refused(put(tmp_path, "time_s,dl_kbps\n0,1\n2,3\n"), message, **NAMED | options)


# -- known layouts, with the headers of the published files

LUMOS5G = (
    "run_num,seq_num,abstractSignalStr,latitude,longitude,movingSpeed,compassDirection,nrStatus,lte_rssi,lte_rsrp,lte_rsrq,"
    "lte_rssnr,nr_ssRsrp,nr_ssRsrq,nr_ssSinr,Throughput,mobility_mode,trajectory_direction,tower_id\n"
)


def lumos(*samples: tuple[int, int, float]) -> str:
    row = "{},{},2,44.97,-93.26,0.2,150,CONNECTED,-59,-89,-13,2147483647,-104,-18,-5,{},walking,CW,2\n"
    return LUMOS5G + "".join(row.format(*sample) for sample in samples)


def test_lumos5g_is_known_and_one_of_its_runs_is_taken(tmp_path):
    path = put(tmp_path, lumos((1, 1, 50), (1, 2, 60.5), (1, 4, 0), (2, 1, 900), (2, 2, 950)))
    with pytest.raises(ConfigError, match=r"line 5: another run begins here: take one by group, like run_num=1"):
        Trace.load(path, **B)
    assert rows(Trace.load(path, group="run_num=1", **B)) == [(0, 50e6), (1, 60.5e6), (3, 0)]
    second = Trace.load(path, group={"run_num": 2}, direction="both", **B)
    assert rows(second, "up") == rows(second) == [(0, 900e6), (1, 950e6)]


def test_5gophers_walking_logs_are_known_and_driving_logs_need_their_operator(tmp_path):
    walking = put(tmp_path, "run_num,seq_num,radio_type,throughput_mbps,nrStatus\n1,1,5G,700.5,x\n1,2,5G,800,x\n")
    assert rows(Trace.load(walking, **B)) == [(0, 700.5e6), (1, 800e6)]
    driving = put(
        tmp_path,
        "protocol,num_tcp_conn,seq_num,Sprint_throughput_mbps,TMobile_throughput_mbps,Verizon_throughput_mbps\n"
        "TCP,8,102,311.3,60.2,891.2\nTCP,8,109,323.2,0.019512,94.3\n",
    )
    assert rows(Trace.load(driving, time="seq_num", down="Verizon_throughput_mbps", **B)) == [(0, 891.2e6), (7, 94.3e6)]


def test_starlink_logs_are_known_by_the_terminals_figures_and_others_are_named(tmp_path):
    terminal = put(
        tmp_path,
        "timestamp,uptime_s,hardware_version,state,pop_ping_drop_rate,pop_ping_latency_ms,downlink_throughput_bps,"
        "uplink_throughput_bps,snr\n2024-01-15T10:30:00,3600,rev1,CONNECTED,0.01,35.2,15000000,2000000,8.5\n"
        "2024-01-15T10:35:00,3900,rev1,CONNECTED,0.01,35.2,16000000,,8.5\n",
    )
    trace = Trace.load(terminal, **B)
    assert (rows(trace), rows(trace, "up")) == ([(0, 15e6), (300, 16e6)], [(0, 2e6)])
    driven = put(
        tmp_path,
        "time,throughput,speed,latitude,longtitu,area_type\n2023-04-05 11:03:07 CDT,8.21,2.4,44.9,-93.2,suburban\n"
        "2023-04-05 11:03:08 CDT,17.3,0.9,44.9,-93.2,suburban\n2023-04-05 11:03:09 CDT,29.7,0.9,44.9,-93.2,urban\n",
    )
    options = {"time": "time", "down": "throughput", "rate_unit": "Mbps"} | B
    assert rows(Trace.load(driven, **options)) == [(0, pytest.approx(8.21e6)), (1, 17.3e6), (2, 29.7e6)]
    assert len(rows(Trace.load(driven, group="area_type=suburban", **options))) == 2


def test_an_fcc_row_stands_for_five_seconds_of_bytes(tmp_path):
    header = (
        "unit_id,dtime,target,address,fetch_time,bytes_total,bytes_sec,bytes_sec_interval,warmup_time,warmup_bytes,sequence,"
        "threads,successes,failures\n"
    )
    row = "{},2013-09-01 0{}:00:00,{},1.2.3.4,1,1,{},1,1,1,0,1,1,0\n"
    text = header + row.format(7, 1, "a", 1000) + row.format(7, 2, "a", 2000) + row.format(8, 1, "b", 9)
    path = put(tmp_path, text)
    with pytest.raises(ConfigError, match="line 4: another run begins here: take one by group, like unit_id=7"):
        Trace.load(path, **B)
    trace = Trace.load(path, group=["unit_id=7", "target=a"], **B)
    assert (rows(trace), trace.period) == ([(0, 8e3), (5, 16e3)], 10)


# -- from the command line, and from an experiment

LOG = "timestamp_ms,dl_kbps,ul_kbps\n1700000000000,5000,100\n1700000001000,6000,200\n1700000004000,1,2\n"
COLUMNS = ["--time", "timestamp_ms", "--down", "dl_kbps", "--up", "ul_kbps"]


def test_a_log_is_imported_by_its_columns_and_without_a_target_no_run_can_take_it(tmp_path, capsys):
    log, out = put(tmp_path, LOG), tmp_path / "out.csv"
    assert run(["traces", "import", str(log), *COLUMNS]) == 0
    printed = capsys.readouterr()
    assert "\n1,link/DEVICE,down,6 Mbit/s\n" in printed.out and "No --target is given" in printed.err
    assert run(["traces", "import", str(log), *COLUMNS, "--target", "link/b", "--scale", "2", "--out", str(out)]) == 0
    assert rows(Trace.load(out)) == [(0, 10e6), (1, 12e6), (4, 2e3)]


def test_show_says_as_what_a_file_was_read_its_period_and_its_mean_rate(tmp_path, capsys):
    assert run(["traces", "show", str(put(tmp_path, LOG)), *COLUMNS, "--target", "link/b"]) == 0
    printed = capsys.readouterr().out
    assert "5.75 Mbit/s" in printed
    assert printed.endswith("log: read as csv, end: loop, period 4\n")


def test_an_experiments_entry_takes_the_same_options(tmp_path):
    put(tmp_path, "run;when;rate\n1;0;5\n2;0;6\n2;1500;7\n")
    entry = {
        "time": "when", "time_unit": "ms", "down": "rate", "rate_unit": "Mbit/s", "group": {"run": 2},
        "target": "link/b", "direction": "both", "scale": 0.5, "offset": "2 s",
    }  # fmt: skip
    experiment = Path(__file__).parents[3] / "experiments" / "gpt2-star4.yaml"
    loaded = Experiment.load(experiment, [f"traces=[{json.dumps(entry | {'path': str(tmp_path / 'log.csv')})}]"])
    (trace,) = loaded.traces.traces
    assert (rows(trace), rows(trace, "up"), trace.period) == ([(2, 3e6), (3.5, 3.5e6)], rows(trace), 3.5)
