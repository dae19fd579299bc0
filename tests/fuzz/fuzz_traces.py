"""All readers of traces: files of each format, both valid ones and ones with small mistakes or hostile changes."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.errors import ConfigError
from testbed.traces import Trace, TraceSet, formats, native, summarise
from testbed.traces.generate import GENERATORS, generate

LINK = {"target": "link/b", "direction": "both"}
NATIVE = "# end: loop\n# period: 96\ntime,target,quantity,value\n0,link/b,rate,50 Mbit/s\n40,device/c,memory,96 MiB\n"
GNETTRACK = "Timestamp,Speed,DL_bitrate,UL_bitrate\n2019.12.14_10.16.30,0,7,1\n2019.12.14_10.16.31,0,-,2\n"
LUMOS5G = "run_num,seq_num,nrStatus,Throughput,tower_id\n1,1,CONNECTED,50.5,2\n1,2,NONE,60,2\n2,1,NONE,7,2\n"
LOG = 'time_ms;dl_kbps;ul_kbps\n0;1,5;2\n1000;"2,5";-\n2000;3;\n'
SABRE = '[{"duration_ms": 5000, "bandwidth_kbps": 1510, "latency_ms": 20}, {"duration_ms": 1, "bandwidth_kbps": 0}]'
FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "native": (NATIVE, {}),
    "mahimahi": ("0\n5\n5\n900\n1800\n2700\n", LINK),
    "pensieve": ("180 0.462624\n185 1.115528\n190 2.758448\n", LINK),
    "hsdpa": ("1285060000 1000 59 10 125000 1000\n1285060001 2000 59 10 250000 1000\n", LINK),
    "sabre": (SABRE, LINK),
    "irish5g": (GNETTRACK, LINK),
    "lumos5g": (LUMOS5G, LINK | {"group": "run_num=1"}),
    "csv": (LOG, LINK | {"time": "time_ms", "down": "dl_kbps", "up": "ul_kbps"}),
}

# The replacements for a number, a word or a sign.
SPLINTERS = st.one_of(
    st.sampled_from(
        [
            "",
            "-",
            "-1",
            "nan",
            "inf",
            "-inf",
            "1e999",
            "1e-9",
            "5e-324",
            "999999999999999",
            "1" * 400,
            "1,234",
            "1.234,5",
            "0",
            "1_0",
            "٣",
            "\ufeff",
            "\x00",
            "\x1b[2J",
            "\n",
            "\r",
            "\r\n",
            "\n\n",
            ",",
            ";",
            "\t",
            " ",
            '"',
            "'",
            "#",
            "# end: stop\n",
            "# period: 1e-9\n",
            "sep=;\n",
            "[",
            "{",
            "]]",
            "link/b",
            "device/c",
            "pause",
            "loss",
            "1 bit/s",
            "120 %",
            "null",
            "10:00:00",
            "2024-05-01 00:00:00",
            "2024-05-01T00:00:00+25:00",
            "12/14/2019 1:00 PM",
            "\ud800",
            "x" * 300,
        ]
    ),
    st.text(max_size=8),
)
OPTIONS = st.dictionaries(
    st.sampled_from(
        [
            "end",
            "period",
            "offset",
            "clip",
            "scale",
            "bin_s",
            "time",
            "down",
            "up",
            "step",
            "time_unit",
            "rate_unit",
            "time_format",
            "delimiter",
            "decimal",
            "missing",
            "group",
            "target",
            "direction",
            "layout",
            "other",
        ]
    ),
    st.one_of(
        st.sampled_from(
            [
                None,
                0,
                -1,
                1,
                0.5,
                1e-9,
                1e300,
                10**400,
                float("nan"),
                float("inf"),
                True,
                [],
                [1, 2],
                [0, "x"],
                {},
                {"a": []},
                "",
                "loop",
                "hold",
                "stop",
                "time_ms",
                "dl_kbps",
                "1",
                "3",
                "ms",
                "Mbit/s",
                "MBps",
                "%Y",
                "%",
                "%f%f",
                "comma",
                ";",
                "&",
                ",",
                ".",
                "run_num=2",
                "1,2",
                "2,1",
                "link/b",
                "device/c",
                "both",
                "up",
                "irish5g",
                "\x1b",
                "x" * 10_000,
            ]
        ),
        st.floats(),
    ),
    max_size=2,
)


@st.composite
def mutated(draw: st.DrawFn, text: str) -> bytes:
    """A valid file with a few pieces replaced, lost, doubled or swapped."""
    for _ in range(draw(st.integers(0, 4))):
        begin = draw(st.integers(0, len(text)))
        end = draw(st.integers(begin, min(len(text), begin + 20)))
        kind = draw(st.sampled_from(["replace", "drop", "double", "end"]))
        if kind == "replace":
            text = text[:begin] + draw(SPLINTERS) + text[end:]
        elif kind == "drop":
            text = text[:begin] + text[end:]
        elif kind == "double":
            text = text[:end] + text[begin:end] * draw(st.integers(1, 3)) + text[end:]
        else:
            text = text[:end]
    content = text.encode("utf-8", "surrogatepass")
    return content if draw(st.integers(0, 19)) else content + draw(st.binary(max_size=8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("traces")


def use(trace: Trace, folder: Path) -> None:
    """Use a trace as a run and `traces show` do; writing and reading it must give an equal trace."""
    for series in summarise(trace):
        assert series.text(series.mean)
    both = TraceSet((trace,))
    both.at(1.0)
    both.next_change_after(0.5)
    both.changes_between(0.0, min(1.0, both.next_change_after(0.0) or 1.0))
    native.save(trace, folder / "written.csv")
    assert Trace.load(folder / "written.csv") == trace


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
def test_a_file_of_any_format_with_slips_in_it_is_read_or_refused(name: str, data: st.DataObject, folder: Path) -> None:
    text, options = FILES[name]
    path = folder / f"{os.getpid()}.txt"
    path.write_bytes(data.draw(mutated(text)))
    told = data.draw(st.booleans())
    use(Trace.load(path, name if told else None, **options), folder)


@given(name=st.sampled_from([*FILES, *formats.FORMATS]), told=st.booleans(), options=OPTIONS)
def test_any_option_with_any_value_is_taken_or_refused(
    name: str, told: bool, options: dict[str, Any], folder: Path
) -> None:
    text, own = FILES.get(name, FILES["csv"])
    path = folder / f"{os.getpid()}.csv"
    path.write_text(text)
    use(Trace.load(path, name if told else None, **own | options), folder)


@given(
    kind=st.sampled_from([*GENERATORS, "other"]),
    target=st.sampled_from(["link/b", "device/c", "b"]),
    options=st.dictionaries(
        st.sampled_from(
            [
                "rate",
                "at",
                "duration",
                "jitter",
                "length",
                "step",
                "states",
                "stay",
                "spread",
                "memory",
                "taken",
                "share",
                "fraction",
                "recover_at",
                "direction",
                "compute",
                "streaming",
                "other",
            ]
        ),
        st.one_of(
            st.sampled_from(
                ["1e18", "1e-18", "0", "-1", "nan", "50 Mbit/s", "1 GiB", "1e308", "", "both", "1 %", [], {}, None]
            ),
            st.floats(),
            st.integers(),
        ),
        max_size=3,
    ),
)
def test_a_generator_with_any_options_makes_a_trace_or_says_why_not(
    kind: str, target: str, options: dict[str, Any], folder: Path
) -> None:
    use(generate(kind, target, 1, options), folder)


@given(
    data=st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(["up", "link/b", "loop", "x"])),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.fixed_dictionaries(dict.fromkeys(("name", "end", "period", "changes"), inner)),
        ),
        max_leaves=12,
    ),
    rows=st.lists(st.tuples(st.floats(), st.just("link/b"), st.sampled_from(["up", "down"]), st.floats()), max_size=4),
    end=st.sampled_from(["hold", "loop", "stop"]),
    period=st.one_of(st.none(), st.floats()),
)
def test_an_inline_trace_of_any_shape_is_taken_or_refused(
    data: Any, rows: list[Any], end: str, period: float | None, folder: Path
) -> None:
    with suppress(ConfigError):
        Trace.from_dict(data)
    trace = Trace.from_dict({"name": "x", "end": end, "period": period, "changes": rows})
    assert Trace.from_dict(json.loads(json.dumps(trace.to_dict()))) == trace
    use(trace, folder)
