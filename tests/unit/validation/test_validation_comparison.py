"""Rows of single boards alone predict those of several, within bounds that were set before; nothing is a traceback."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.controller.calibration import NOMINAL_HOP_S
from testbed.models.presets import PRESETS
from testbed.placement.blocks import Partition
from testbed.placement.cost.model import token_latency
from testbed.placement.observation import DeviceView, LinkView, Observation
from testbed.placement.policies import make_policy
from testbed.shape import WeightFormats
from testbed.validation.assumptions import DEFAULT
from testbed.validation.calibration import Calibration, Fit, Kernel, calibrate
from testbed.validation.comparison import Compared, calibrates, compare, observations, validate
from testbed.validation.engines import ENGINES, engine_of
from testbed.validation.names import Board, Formats, Program, Wire
from testbed.validation.prediction import Configuration, Prediction, predict
from testbed.validation.summary import summarise
from testbed.validation.table import BUNDLED, COLUMNS, Measurement, Row, measurements, read_table

ROWS = read_table(BUNDLED)


@cache
def compared() -> tuple[list[Compared], Calibration]:
    return validate()


def every(rows: list[Row]) -> list[Measurement]:
    return [one for each in rows for one in measurements(each)]


def test_calibration_reads_only_rows_marked_as_calibration() -> None:
    marked = {one.measurement.row.line for one in compared()[0] if one.calibration}
    assert {one.line for one in compared()[1].observed} <= marked
    assert not any(one.scored for one in compared()[0] if one.calibration)
    spoilt = [one if calibrates(one) else replace(one, value=1e6) for one in every(ROWS)]
    assert calibrate(observations(spoilt)) == compared()[1], "values of other rows change nothing"
    alone = [one for one in every(ROWS) if calibrates(one)]
    assert calibrate(observations(alone)) == compared()[1], "nor does leaving these rows out"


def test_every_published_number_of_bytes_is_predicted() -> None:
    found = [one for one in compared()[0] if one.scored == "bytes"]
    assert len(found) == 38 and all(one.error is not None and abs(one.error) < 0.0025 for one in found)


def test_the_bounds_are_kept() -> None:
    summary = summarise(compared()[0])
    assert {name: of["met"] for name, of in summary.items() if "met" in of} == dict.fromkeys(
        ("bytes", "computing", "token_time", "slope", "feasibility"), True
    )
    computing = summary["computing"]
    assert computing["median_abs"] <= computing["naive_median_abs"] / 2
    assert computing["configurations"] >= 9 and summary["token_time"]["configurations"] >= 10
    (climb,) = summary["slope"]["rows"]
    assert climb["contexts"] == 10


def test_whatever_is_not_scored_says_why_and_every_scored_row_is_predicted() -> None:
    for one in compared()[0]:
        assert (one.scored is None) == (one.reason is not None)
        assert one.scored is None or one.predicted is not None
    (cluster,) = (one for one in compared()[0] if "cluster" in one.measurement.row.devices)
    assert cluster.reason == "the row names no engine" and cluster.predicted is None


def test_rows_for_json_have_the_promised_keys_and_no_figure_that_is_not_finite() -> None:
    promised = {"source", "model", "devices", "metric", "unit", "value", "predicted", "error", "reason", "calibration"}
    for one in compared()[0]:
        told = one.row()
        assert promised <= set(told)
        json.dumps(told, allow_nan=False)
        if told["error"] is not None:
            assert told["error"] == pytest.approx((told["predicted"] - told["value"]) / told["value"])


def row(**cells: str) -> Row:
    base = dict.fromkeys(COLUMNS, "") | {
        "source": "theirs", "model": "Llama 2 7B", "quant_bits": "Q40 weights, Q80 exchange",
        "devices": "2 x Raspberry Pi 5 8GB", "link": "1 GbE", "metric": "token time", "value": "300",
        "unit": "ms/token", "notes": "dllama 0.3.1",
    }  # fmt: skip
    return Row(2, **(base | cells))


@pytest.mark.parametrize(
    ("cells", "provenance"),
    [
        ({}, "same-board"),
        ({"notes": "dllama 0.7.1"}, "other-board"),  # another version on the same board
        ({"devices": "3 x Raspberry Pi CM5 16GB"}, "other-board"),  # the same chip
        ({"devices": "2 x GMKtec G3 Plus N150 16GB"}, "other-board"),  # known by another program
        ({"devices": "2 x Jetson Orin Nano 8GB"}, "source"),  # known by the catalogue alone
    ],
)
def test_other_boards_and_versions_take_the_nearest_rate_and_say_so(cells: dict[str, str], provenance: str) -> None:
    (found,), _ = compare([row(**cells)], ROWS)
    told = found.row()
    assert told["provenance"]["rate"] == provenance and told["provenance"]["rate_from"]
    assert told["predicted"] > 0 and told["scored"] == "token time"


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"devices": "2 x Abacus"}, "no single-board row tells how fast abacus is"),
        ({"devices": "many boards, x"}, "a single board"),
        ({"model": "Qwen3-30B-A3B"}, "is none whose dimensions are known here"),
        ({"quant_bits": "ternary", "notes": "dllama 0.3"}, "which says no format"),
        ({"link": "Wi-Fi"}, "no rate that can be read"),
        ({"metric": "peak power", "unit": "W"}, "nothing that is predicted"),
        ({"value": "?"}, "is no number"),
        ({"notes": "", "quant_bits": "q4_0"}, "names no engine"),
        ({"notes": "llama.cpp RPC"}, "no list of its exchanges"),
        ({"metric": "prompt throughput", "unit": "tokens/s"}, "a prompt is not predicted"),
    ],
)
def test_what_cannot_be_predicted_is_null_with_a_reason(cells: dict[str, str], reason: str) -> None:
    (found,), _ = compare([row(**cells)], ROWS)
    told = found.row()
    if reason != "a single board":
        assert told["predicted"] is None and told["error"] is None
        assert told["scored"] is None and reason in told["reason"]


def test_a_boards_own_rows_in_their_table_calibrate_it() -> None:
    alone = row(devices="1 x Abacus 8GB", link="none", value="1000")
    pair = row(devices="2 x Abacus 8GB", value="600")
    (first, second), calibration = compare([alone, pair], ROWS)
    assert first.calibration and first.reason == "a single board: it calibrates"
    assert second.row()["provenance"]["rate"] == "same-board"
    assert isinstance(second.predicted, float) and 500 < second.predicted < 700
    assert (Board("abacus", 8 * 2**30), Kernel("dllama-0.3", "q4_0")) in calibration.fits


cells = st.one_of(
    st.text(max_size=40),
    st.sampled_from(sorted({getattr(each, column) for each in ROWS for column in COLUMNS})),
    st.from_regex(r"\A\d{1,25}( ?[x/] ?\d{1,25}){0,3} ?(GB|ms|cores|threads|context|Raspberry Pi 5)?\Z"),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.fixed_dictionaries(dict.fromkeys(COLUMNS, cells)), max_size=4))
def test_no_row_is_a_traceback(rows: list[dict[str, str]]) -> None:
    found, _ = compare([Row(number, **each) for number, each in enumerate(rows)], ROWS[:14])
    assert len(found) >= len(rows)
    summarise(found)
    for one in found:
        assert (one.scored is None) == (one.reason is not None)
        one.row()


def test_each_engine_is_found_by_its_version() -> None:
    versions = {(0, 1): "dllama-0.1", (0, 2): "dllama-0.1", (0, 3, 1): "dllama-0.3", (0, 4): "dllama-0.3",
                (0, 6, 1): "dllama-0.5", (0, 7, 0): "dllama-0.5", (0, 7, 1): "dllama-0.7.1", (0, 10, 6): "dllama-0.7.1",
                (0, 11): "dllama-0.11", (0, 16): "dllama-0.11"}  # fmt: skip
    assert {version: engine_of(Program("dllama", version)).name for version in versions} == versions
    assert set(ENGINES) == {*versions.values(), "llama.cpp"}


@pytest.mark.parametrize("version", [(0, 7, 1), (0, 11)])
def test_the_newer_engines_are_placements_of_ours(version: tuple[int, ...]) -> None:
    """Their lists of exchanges take as long as a tensor-parallel placement, with a hub or all-to-all."""
    Bps, nodes = 9e9, 4
    shape = replace(PRESETS["llama-3-8b"], weights=WeightFormats.all_in("q4_0"))
    config = Configuration(
        Program("dllama", version), shape, Formats("q4_0", 4.5, 4.0, 4), (Board("abacus", None, 8),) * nodes,
        Wire(1e9, 0.0, "default"), None, 100.0, DEFAULT,
    )  # fmt: skip
    kernel = config.kernel
    known = calibrate(observations([]))
    known.fits[Board("abacus", None, 8), kernel] = Fit(Bps, None, 1)
    found = predict(config, known)
    assert isinstance(found, Prediction)
    hub = version < (0, 11)
    partition = Partition(nodes, True, 1 if hub else nodes, "hub" if hub else "all-to-all")
    views = tuple(DeviceView(f"n{number}", 2**40, Bps, 1e15, 1e9) for number in range(nodes))
    links = {view.name: LinkView(1e9, 1e9, 0.0, 0.0) for view in views}
    seen = Observation(shape, partition, "n0", views, links, 99, 1, 200, 8)
    policy = make_policy("tensor-parallel", {})
    policy.reset(1)
    ours = token_latency(seen, policy.decide(seen, None), 100)
    assert found.token_s == pytest.approx(ours, rel=0.03)


def test_the_assumed_time_of_a_message_is_the_nominal_one() -> None:
    assert DEFAULT.lan_message_s == NOMINAL_HOP_S


def test_a_table_that_is_given_is_read(tmp_path: Path) -> None:
    file = tmp_path / "theirs.csv"
    file.write_text(BUNDLED.read_text(encoding="utf-8"), encoding="utf-8")
    assert [one.row() for one in validate(file)[0]] == [one.row() for one in compared()[0]]
