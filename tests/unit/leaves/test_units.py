"""Typed quantities: what is written with a unit is one SI number, and bits are never bytes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from refusals import refusal

from testbed import units
from testbed.strict_yaml import shown

Parse = Callable[[object], float]


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (units.parse_rate, "50 Mbit/s", 50e6),
        (units.parse_rate, "0 bit/s", 0.0),
        (units.parse_rate, "1.5Gbit/s", 1.5e9),
        (units.parse_rate, " 2e3 kbit/s ", 2e6),
        (units.parse_duration, "2 ms", 2e-3),
        (units.parse_duration, "300 us", 3e-4),
        (units.parse_duration, "300 µs", 3e-4),
        (units.parse_duration, "1.5 min", 90.0),
        (units.parse_duration, ".5 s", 0.5),
        (units.parse_bytes, "256 MiB", 268435456),
        (units.parse_bytes, "256 MB", 256000000),
        (units.parse_bytes, "0.5 KiB", 512),
        (units.parse_bandwidth, "3 GB/s", 3e9),
        (units.parse_bandwidth, "1 KiB/s", 1024.0),
        (units.parse_compute, "8 GFLOP/s", 8e9),
        (units.parse_compute, "1.2 TFLOP/s", 1.2e12),
        (units.parse_compute, "16.97 GFLOP/s", 16970000000.0),
        (units.parse_duration, "0.3 ms", 0.0003),
        (units.parse_duration, "4.35 us", 0.00000435),
        (units.parse_fraction, "1 %", 0.01),
        (units.parse_fraction, 0.25, 0.25),
        (units.parse_fraction, "100%", 1.0),
    ],
)
def test_a_quantity_is_the_si_number_nearest_to_what_is_written(parse: Parse, text: object, value: float) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (units.parse_rate, "50 MB/s"),  # bytes where bits are meant
        (units.parse_rate, "50 Mbps"),
        (units.parse_rate, "50 mbit/s"),  # milli
        (units.parse_rate, "50"),
        (units.parse_rate, 50),
        (units.parse_rate, "50 Mibit/s"),
        (units.parse_rate, "-1 Mbit/s"),
        (units.parse_rate, "1e999 bit/s"),
        (units.parse_rate, "nan bit/s"),
        (units.parse_rate, "5 0 Mbit/s"),
        (units.parse_rate, ""),
        (units.parse_rate, None),
        (units.parse_rate, True),
        (units.parse_duration, "2"),
        (units.parse_duration, "2 m"),
        (units.parse_duration, "2 MS"),
        (units.parse_bytes, "1 Mbit"),
        (units.parse_bytes, "1 mB"),
        (units.parse_bytes, "inf B"),
        (units.parse_bandwidth, "3 Gbit/s"),
        (units.parse_bandwidth, "3 GB"),
        (units.parse_compute, "8 GFLOPS"),
        (units.parse_compute, "8 GFLOP"),
        (units.parse_fraction, "101 %"),
        (units.parse_fraction, 1.5),
        (units.parse_fraction, False),
    ],
)
def test_what_is_no_such_quantity_is_refused_with_the_value_and_an_example(parse: Parse, text: object) -> None:
    message = refusal(lambda: parse(text), shown(text).strip("' "))
    assert "like '" in message or "at most 100 %" in message


PAIRS: list[tuple[Parse, Callable[[float], str]]] = [
    (units.parse_rate, units.format_rate),
    (units.parse_bytes, units.format_bytes),
    (units.parse_bandwidth, units.format_bandwidth),
    (units.parse_compute, units.format_compute),
    (units.parse_duration, units.format_duration),
]


@pytest.mark.parametrize(("parse", "form"), PAIRS)
@given(value=st.floats(1e-3, 9e8))
def test_what_is_printed_can_be_read_back(parse: Parse, form: Callable[[float], str], value: float) -> None:
    """To the four digits that are printed (and whole bytes)."""
    tolerance = 0.5 if parse is units.parse_bytes else 0.0
    assert math.isclose(parse(form(value)), value, rel_tol=1e-3, abs_tol=tolerance)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (units.format_rate(5e7), "50 Mbit/s"),
        (units.format_rate(0), "0 bit/s"),
        (units.format_bytes(268435456), "256 MiB"),
        (units.format_bytes(1023), "1023 B"),
        (units.format_bandwidth(3e9), "3 GB/s"),
        (units.format_compute(8e9), "8 GFLOP/s"),
        (units.format_duration(0.002), "2 ms"),
        (units.format_duration(5e-7), "0.5 us"),
    ],
)
def test_a_value_is_printed_in_the_unit_that_suits_it(text: str, wanted: str) -> None:
    assert text == wanted
    assert "e+" not in text


@example(1e4, (units.parse_compute, units.format_compute))
@given(st.floats(1, 1e12), st.sampled_from(PAIRS))
def test_nothing_is_printed_in_powers_of_ten(value: float, pair: tuple[Parse, Callable[[float], str]]) -> None:
    if pair[0] is not units.parse_duration:
        assert "e+" not in pair[1](value)


@pytest.mark.parametrize(
    "text",
    [
        "1" * 200_000 + "x",
        "1e999999999999999999999 B",
        "1e-99999999999999999999 x",
        "9" * 90 + " B",
        pytest.param(10**5000, id="digits"),
        [[]],
    ],
)
def test_a_quantity_out_of_all_proportion_is_refused_at_once(text: object) -> None:
    started = time.process_time()
    assert len(refusal(lambda: units.parse_bytes(text))) < 200
    assert time.process_time() - started < 0.5
