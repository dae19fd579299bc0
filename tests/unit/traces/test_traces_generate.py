"""The generators and the traces that ship with the package."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refusal

from testbed.errors import ConfigError
from testbed.traces import Trace, TraceSet, bundled, generate, native
from testbed.traces.generate import GENERATORS, MBIT, MIB

TARGETS = {"cpu-contention": "device/d", "memory-squeeze": "device/d"}


@pytest.mark.parametrize("kind", sorted(GENERATORS))
def test_the_same_seed_gives_the_same_trace_and_another_seed_another_one(kind):
    target = TARGETS.get(kind, "link/b")
    options = {} if kind == "cellular-walk" else {"jitter": 8}
    one, again, other = (generate.generate(kind, target, seed, options) for seed in (1, 1, 2))
    assert one == again != other
    assert one.end == "hold"
    assert one.changes[0].time_s == 0
    assert one.name == kind


@given(st.integers(), st.floats(0, 0.4), st.floats(0, 1))
def test_a_cellular_walk_moves_to_neighbouring_states_only(seed, spread, stay):
    states = [1e6, 1e7, 1e8, 1e9]
    trace = generate.cellular_walk("link/b", states_bps=states, seed=seed, spread=spread, stay=stay, direction="up")
    rows = trace.rows["link/b", "up"]
    assert [time for time, _ in rows] == list(range(0, 96, 8))
    nearest = [min(range(4), key=lambda k: abs(states[k] - rate) / states[k]) for _, rate in rows]
    assert all(abs(rate - states[k]) <= (spread + 0.01) * states[k] for (_, rate), k in zip(rows, nearest, strict=True))
    assert all(abs(a - b) <= 1 for a, b in pairwise(nearest))


def test_a_cellular_walk_that_never_stays_always_moves_and_one_that_stays_never_does():
    moving = generate.cellular_walk("link/b", spread=0, stay=0, length=400, seed=3, direction="up")
    rates = [rate for _, rate in moving.rows["link/b", "up"]]
    assert all(a != b for a, b in pairwise(rates))
    assert set(rates) == set(generate.CELLULAR_STATES_BPS)
    still = generate.cellular_walk("link/b", spread=0, stay=1, direction="up")
    assert {rate for _, rate in still.rows["link/b", "up"]} == {20 * MBIT}


def test_an_outage_is_a_rate_of_zero_for_its_duration():
    both = TraceSet((generate.outage("link/b", rate_bps=5e6, at=30, duration=3, direction="down"),))
    assert [both.at(t) for t in (0, 30, 33)] == [{("link/b", "down"): rate} for rate in (5e6, 0, 5e6)]


def test_a_squeeze_with_a_duration_gives_the_memory_back():
    trace = generate.memory_squeeze("device/b", memory_bytes=200, taken_bytes=150, at=10, duration=5)
    assert trace.rows == {("device/b", "memory"): [(0, 200), (10, 50), (15, 200)]}


def test_contention_leaves_a_share_of_both_rates():
    trace = generate.cpu_contention("device/b", compute_flops=10, streaming_Bps=20, share=0.5, at=1, duration=None)
    assert trace.rows == {("device/b", "compute"): [(0, 10), (1, 5)], ("device/b", "streaming"): [(0, 20), (1, 10)]}


def test_jitter_moves_an_event_by_at_most_that_much_and_keeps_its_length():
    starts = set()
    for seed in range(30):
        (_, _), (start, _), (end, _) = generate.outage("link/b", at=4, jitter=3, seed=seed).rows["link/b", "up"]
        assert 1 <= start <= 7
        assert end - start == pytest.approx(3)
        starts.add(start)
    assert len(starts) > 10


def test_options_are_typed_and_may_leave_their_unit_suffix_out():
    trace = generate.generate("link-collapse", "link/c", 0, {"rate": "10 Mbit/s", "fraction": "50 %", "at": "4"})
    assert trace.rows["link/c", "up"] == [(0, 10e6), (4, 5e6)]
    walk = generate.generate(
        "cellular-walk", "link/c", 0, {"states": "1 Mbit/s, 2 Mbit/s", "spread": 0, "direction": "up"}
    )
    assert {rate for _, rate in walk.rows["link/c", "up"]} <= {1e6, 2e6}
    squeeze = generate.generate("memory-squeeze", "device/c", 0, {"memory_bytes": "2 MiB", "taken": "1 MiB"})
    assert squeeze.rows["device/c", "memory"][1] == (48, MIB)


@pytest.mark.parametrize(
    ("kind", "target", "options", "message"),
    [
        ("storm", "link/b", {}, "'storm' is not a trace generator: there are cellular-walk"),
        ("outage", "link/b", {"rte": 1}, "generator outage has no option 'rte': it has rate, at"),
        ("outage", "link/b", {"rate": "5 MB/s"}, "generator outage, option rate: '5 MB/s' is not a link rate"),
        ("outage", "link/b", {"at": "-3"}, "generator outage, option at: '-3'"),
        ("outage", "link/b", {"duration": 0}, "a duration of 0 is not possible"),
        ("outage", "link/b", {"direction": "left"}, "'left' is not a direction"),
        ("outage", "device/b", {}, "its target must be link/DEVICE"),
        ("memory-squeeze", "link/b", {}, "link/b has no quantity 'memory'"),
        ("memory-squeeze", "device/b", {"taken": "9 GiB"}, "an app cannot take 9 GiB of 256 MiB"),
        ("cpu-contention", "device/b", {"share": 0}, "a share of 0"),
        ("link-collapse", "link/b", {"recover_at": 3}, "cannot recover at 3"),
        ("cellular-walk", "link/b", {"step": 0}, "a step and a length above 0"),
    ],
)
def test_a_wrong_option_is_refused_in_one_sentence(kind, target, options, message):
    refusal(lambda: generate.generate(kind, target, 0, options), message)


def test_the_bundled_files_are_what_the_documented_script_writes(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "testbed.traces.bundled", "--out", str(tmp_path)], check=True, capture_output=True
    )
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    shipped = {path.name: path.read_bytes() for path in bundled.DATA.iterdir()}
    assert made == shipped
    assert len(shipped) >= 4


@pytest.mark.parametrize("name", sorted(bundled.RECIPES))
def test_a_bundled_trace_loads_as_it_was_made(name):
    trace = Trace.load(bundled.path_of(name))
    assert trace == bundled.RECIPES[name].make()
    assert trace.name == name
    assert bundled.path_of(name).read_text() == native.dumps(trace)


def test_an_unknown_bundled_trace_is_refused_with_the_names_there_are():
    with pytest.raises(ConfigError, match="'link' is not a bundled trace: there are board-squeeze, cellular-walk"):
        bundled.path_of("link")
