"""Trace files: native CSV there and back, the choice of a format, and every way a native file can be wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refusal
from trace_files import GNETTRACK, LINK, put, refused

from testbed.errors import ConfigError
from testbed.traces import Change, Trace, TraceSet, formats, native

HEADER = "time,target,quantity,value\n"


# -- native CSV


def test_rate_and_delay_mean_both_directions_and_values_become_si(tmp_path):
    path = put(tmp_path, "my.csv", HEADER + "0,link/b,rate,50 Mbit/s\n0,link/b,delay,2 ms\n40,device/c,memory,96 MiB\n")
    trace = Trace.load(path)
    assert (trace.name, trace.end, trace.period) == ("my", "hold", None)
    assert TraceSet((trace,)).at(40) == {
        ("link/b", "up"): 50e6,
        ("link/b", "down"): 50e6,
        ("link/b", "up_delay"): 2e-3,
        ("link/b", "down_delay"): 2e-3,
        ("device/c", "memory"): 96 * 2**20,
    }


def test_a_later_row_of_the_same_time_wins_even_over_rate(tmp_path):
    path = put(tmp_path, "t.csv", HEADER + "0,link/b,rate,50 Mbit/s\n0,link/b,up,1 Mbit/s\n")
    assert TraceSet((Trace.load(path),)).at(0) == {("link/b", "up"): 1e6, ("link/b", "down"): 50e6}


def test_comments_before_the_header_may_set_the_end_rule_and_options_override_it(tmp_path):
    path = put(
        tmp_path, "t.csv", "# by hand\n# end: loop\n# period: 9\n" + HEADER + "0,link/b,up,1 bit/s\n3,link/b,up,0 bit/s"
    )
    assert (Trace.load(path).end, Trace.load(path).period) == ("loop", 9)
    assert (Trace.load(path, end="stop").end, Trace.load(path, end="stop").period) == ("stop", 9)
    assert Trace.load(path, end="hold").period is None
    assert Trace.load(path, period=20).period == 20


@pytest.mark.parametrize(
    "text",
    [
        "\ufefftime,target,quantity,value\r\n1.5, link/b ,up , 2 kbit/s\r\n",
        "time,target,quantity,value\r1.5,link/b,up,2 kbit/s\r",
        '\ufeff"time","target","quantity","value"\n"1.5","link/b","up","2 kbit/s"\n',
        "Time;Target;Quantity;Value\n1.5;link/b;up;2 kbit/s\n",
        "time\ttarget\tquantity\tvalue\n1.5\tlink/b\tup\t2 kbit/s\n",
        "\n# by hand\n\ntime,target,quantity,value\n\n1.5,link/b,up,2 kbit/s\n  \n# the end\n\n",
        "sep=;\ntime;target;quantity;value\n1.5;link/b;up;2 kbit/s\n",
        "time,target,quantity,value,\n1.5,link/b,up,2 kbit/s,\n",
        "time,target,quantity,value\n1.5,link/b,up,2 kbit/s,,\n",
    ],
)
def test_a_table_is_read_as_editors_and_spreadsheets_write_it(tmp_path, text):
    for name in ("t.csv", "t.txt", "-t"):
        assert Trace.load(put(tmp_path, name, text)).changes == (Change(1.5, "link/b", "up", 2000),)


RATES = st.one_of(st.floats(0, 1e12), st.integers(0, 10**5).map(lambda n: n * 1e5))
VALUES = {
    ("link/b", "up"): RATES,
    ("link/b", "down"): RATES,
    ("link/edge-1.x", "up_delay"): st.floats(0, 10),
    ("link/edge-1.x", "down_delay"): st.floats(0, 10),
    ("link/b", "loss"): st.floats(0, 1),
    ("device/c", "memory"): st.integers(0, 2**50).map(float),
    ("device/c", "compute"): st.floats(1e-3, 1e15),
    ("device/c", "streaming"): st.floats(1e-3, 1e15),
}
CHANGES = st.sampled_from(sorted(VALUES)).flatmap(
    lambda key: st.builds(Change, st.floats(0, 1e9), st.just(key[0]), st.just(key[1]), VALUES[key])
)


@st.composite
def any_trace(draw: st.DrawFn) -> Trace:
    changes = tuple(draw(st.lists(CHANGES, min_size=1, max_size=10)))
    if draw(st.booleans()):  # both directions alike, which the writer says with one word
        changes += tuple(
            Change(c.time_s, c.target, other, c.value)
            for c in changes
            for one, other in (("up", "down"), ("up_delay", "down_delay"))
            if c.quantity == one
        )
    end = draw(st.sampled_from(["hold", "loop", "stop"]))
    last = max(change.time_s for change in changes)
    return Trace(changes, end=end, period=None if end == "hold" else last + draw(st.floats(0.1, 1e3)))


@given(trace=any_trace())
def test_a_written_trace_reads_back_equal(trace, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "round-trip.csv"
    native.save(trace, path)
    assert Trace.load(path) == trace
    assert native.dumps(Trace.load(path)) == native.dumps(trace)


def test_the_writer_uses_short_typed_text():
    changes = [Change(40, "link/b", q, 20e6) for q in ("up", "down")] + [Change(41.5, "device/c", "memory", 96 * 2**20)]
    assert native.dumps(Trace(tuple(changes))) == HEADER + "40,link/b,rate,20 Mbit/s\n41.5,device/c,memory,96 MiB\n"


@pytest.mark.parametrize(
    ("rows", "line", "message"),
    [
        ("5,link/b,up,1 bit/s\n4,link/c,up,1 bit/s\n", 3, "the time steps backwards from 5 to 4"),
        ("0,link/b,up,-5 Mbit/s\n", 2, "'-5 Mbit/s' is not a link rate"),
        ("0,link/b,up,5 MB/s\n", 2, "'5 MB/s' is not a link rate"),
        ("0,link/b,up,5\n", 2, "'5' is not a link rate"),
        ("0,link/b,delay,fast\n", 2, "'fast' is not a duration"),
        ("0,link/b,loss,120 %\n", 2, "at most 100 %"),
        ("0,device/b,memory,many\n", 2, "'many' is not a memory size"),
        ("0,device/b,compute,0 FLOP/s\n", 2, "compute of device/b cannot be 0"),
        ("0,device/b,streaming,0 B/s\n", 2, "streaming of device/b cannot be 0"),
        ("0,cable/b,up,1 bit/s\n", 2, "'cable/b' is not a target"),
        ("0,link/,up,1 bit/s\n", 2, "'link/' is not a target"),
        ("0,link/b,rte,1 bit/s\n", 2, "link/b has no quantity 'rte': it has rate, delay, up"),
        ("0,device/b,rate,1 bit/s\n", 2, "device/b has no quantity 'rate'"),
        ("soon,link/b,up,1 bit/s\n", 2, "'soon' is not a time"),
        ("-1,link/b,up,1 bit/s\n", 2, "'-1' is not a time"),
        ("1 s,link/b,up,1 bit/s\n", 2, "'1 s' is not a time"),
        ("nan,link/b,up,1 bit/s\n", 2, "'nan' is not a time"),
        ("1e999,link/b,up,1 bit/s\n", 2, "'1e999' is not a time"),
        ("0,link/b,up\n", 2, "the row has 3 columns"),
        ('0,link/b,up,"1 bit/s\n', 2, "the line is not CSV"),
        ("# end: loop\n0,link/b,up,1 bit/s\n", 2, "the comment sets the end of the trace: move it before the header"),
    ],
)
def test_a_wrong_row_is_one_sentence_with_file_and_line(tmp_path, rows, line, message):
    path = put(tmp_path, "bad.csv", HEADER + rows)
    refused(path, message, f"{path}, line {line}: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n", "is empty"),
        (HEADER, "has no rows after its header"),
        ("0,link/b,up,1 bit/s\n", "line 1: the header '0, link/b, up, 1 bit/s' is none of native (time,"),
        ("# only this\n", "the file has no rows"),
        ("# end: never\n" + HEADER, "line 1: 'never' is not an end rule"),
        ("# end: loop\n# period: short\n" + HEADER, "line 2: 'short' is not a period"),
        ("# end: loop\n" + HEADER + "0,link/b,up,1 bit/s\n", "end: loop needs a period"),
    ],
)
def test_a_wrong_file_is_one_sentence_that_names_it(tmp_path, text, message):
    path = put(tmp_path, "bad.csv", text)
    refused(path, message, str(path))


@pytest.mark.parametrize("name", ["none.csv", "none.mahimahi", "none.pensieve"])
def test_a_missing_file_is_named(tmp_path, name):
    options = {} if name.endswith("csv") else {"target": "link/b", "direction": "up"}
    refused(tmp_path / name, f"{name}: there is no such file", **options)


def test_a_folder_and_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "d.csv").mkdir()
    refused(tmp_path / "d.csv", "d.csv: the file cannot be read: it is a folder")
    (tmp_path / "b.csv").write_bytes(b"time\xff\n")
    refused(tmp_path / "b.csv", "it is not UTF-8 text")
    with pytest.raises(ConfigError, match="it is a file"):
        native.save(Trace((Change(0, "link/b", "up", 1),)), tmp_path / "b.csv" / "where.csv")


@given(st.text(max_size=200))
def test_any_text_either_loads_or_is_a_config_error(tmp_path_factory, text):
    names = {"any.csv": {}, "any.mahimahi": LINK, "any.pensieve": LINK, "g.csv": LINK, "any": LINK}
    for name, options in names.items():
        path = tmp_path_factory.getbasetemp() / name
        path.write_bytes((GNETTRACK if name == "g.csv" else "").encode() + text.encode("utf-8", "surrogatepass"))
        try:
            Trace.load(path, **options)
        except ConfigError as error:
            assert "\n" not in str(error)


# -- choosing a format and its options


def test_a_foreign_header_is_named_beside_the_formats_that_are_known(tmp_path):
    path = put(tmp_path, "f.csv", "when,how much\n1,2\n")
    told = refusal(
        lambda: Trace.load(path, **LINK), "irish5g (Timestamp,DL_bitrate,UL_bitrate)", "name the columns by time, down"
    )
    assert told.startswith(f"{path}, line 1: the header 'when, how much' is none of native (time,target,")


def test_the_format_is_guessed_from_suffix_and_header(tmp_path):
    assert formats.guess(put(tmp_path, "a.csv", HEADER)) == "native"
    quoted = '"' + GNETTRACK.strip().replace(",", '","') + '"\r\n'
    for text in (GNETTRACK, "\ufeff" + GNETTRACK, quoted, GNETTRACK.lower(), GNETTRACK.replace(",", ";")):
        assert formats.guess(put(tmp_path, "b.csv", text)) == "irish5g"
    assert formats.guess(put(tmp_path, "trace_1", "0 1.5\n1 2\n")) == "pensieve"
    assert formats.guess(put(tmp_path, "report.log", "1285060000 1000 59.9 10.7 4565 1000\n")) == "hsdpa"
    assert formats.guess(put(tmp_path, "trace.json", '[{"duration_ms": 1, "bandwidth_kbps": 1}]')) == "sabre"
    assert [formats.guess(f"x{suffix}") for suffix in (".mahimahi", ".up", ".down", ".pensieve")] == [
        "mahimahi", "mahimahi", "mahimahi", "pensieve",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"x\.bin: .* not clear from its name or its first row '7': name one of"):
        Trace.load(put(tmp_path, "x.bin", "7\n"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "cooked"}, "'cooked' is not a trace format"),
        ({}, "needs a target"),
        ({"target": "link/b"}, "needs a direction"),
        (LINK | {"direction": "sideways"}, "'sideways' is not a direction"),
        (LINK | {"target": "device/b"}, "its target must be link/DEVICE"),
        (LINK | {"target": "b"}, "'b' is not a target"),
        (LINK | {"bin": 2}, "a mahimahi trace has no option 'bin'"),
        (LINK | {"bin_s": 0}, "0 is not a window"),
        (LINK | {"bin_s": "1 s"}, "'1 s' is not a window"),
        (LINK | {"end": "never"}, "'never' is not an end rule"),
        (LINK | {"period": 0.5}, "a period of 0.5 is not possible"),
        (LINK | {"period": "9 s"}, "'9 s' is not a period"),
    ],
)
def test_a_wrong_option_is_refused_by_name(tmp_path, options, message):
    refused(put(tmp_path, "t.mahimahi", "\n".join(str(n) for n in range(0, 3001, 10))), message, **options)


def test_a_native_trace_takes_no_target(tmp_path):
    path = put(tmp_path, "t.csv", HEADER + "0,link/b,up,1 bit/s\n")
    refused(path, "a native trace has no option 'target'", target="link/c")
