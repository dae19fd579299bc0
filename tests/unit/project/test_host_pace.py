"""What is tried again where others use the host: what was judged by time, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
SUPPORT = Path(__file__).parents[2] / "support"
CONFTEST = """
import host_pace, pytest
from host_pace import excuse_on_a_slow_host, try_again

host_pace.AGAIN = pytest.mark.flaky(reruns=host_pace.RERUNS, only_rerun=host_pace.Untimely)  # without pauses
host_pace.streaming_Bps = lambda: {streams}

def pytest_collection_modifyitems(items):
    for item in items:
        try_again(item)

@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    excuse_on_a_slow_host(item, call, report)
    return report
"""
TESTS = """
import time
import pytest
from host_pace import judging_time

tried = dict.fromkeys(["late", "always", "bits", "both", "slow"], 0)

@pytest.fixture(scope="module")
def shared():
    yield 1

@pytest.fixture
def unclean():
    yield
    assert tried["both"] > 1, "something was left behind"

def count(name):
    tried[name] += 1
    return tried[name]

def test_late_twice(shared):
    with judging_time():
        assert count("late") > 2

def test_always_late(shared):
    with judging_time():
        assert count("always") < 0

def test_wrong_bits(shared):
    assert count("bits") > 1

def test_late_and_unclean(shared, unclean):
    with judging_time():
        assert count("both") > 1

@pytest.mark.timeout(1)
def test_the_time_limit_is_of_each_attempt():
    time.sleep(0.4)
    with judging_time():
        assert count("slow") > 3

def test_how_often():
    assert tried == {"late": 3, "always": 4, "bits": 1, "both": 1, "slow": 4}
"""


@pytest.mark.parametrize(("streams", "failed", "excused"), [(1e12, 3, 0), (1e6, 2, 1)])
def test_only_what_was_judged_by_time_is_tried_again_and_excused_where_memory_is_slow_in_the_end(
    pytester: pytest.Pytester, streams: float, failed: int, excused: int
) -> None:
    pytester.makeconftest(CONFTEST.format(streams=streams))
    pytester.makepyfile(TESTS)
    pytester.makeini(f"[pytest]\npythonpath = {SUPPORT}\ntimeout = 60\n")
    done = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-raR")
    done.assert_outcomes(passed=3, failed=failed, errors=1, xfailed=excused)
    done.stdout.fnmatch_lines(["*RERUN *test_late_twice*"])
    assert done.parseoutcomes()["rerun"] == 2 + 3 + 3
