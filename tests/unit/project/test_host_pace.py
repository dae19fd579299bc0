"""What is tried again where others use the host: what was judged by time, and nothing else."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]
CONFTEST = """
import itertools, sys

sys.modules.pop("host_pace", None)  # one of its own, to be changed
import host_pace, pytest
from host_pace import excuse_on_a_slow_host, try_again

host_pace.AGAIN = pytest.mark.flaky(reruns=host_pace.RERUNS, only_rerun=host_pace.Untimely)  # without pauses
streams = itertools.chain([1e6, *4 * [1e12], 1e6], itertools.repeat(1e12))
host_pace.streaming_Bps = lambda: next(streams)

def pytest_collection_modifyitems(items):
    for item in items:
        try_again(item)

@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_makereport(item, call):
    report = yield
    excuse_on_a_slow_host(item, call, report)
    return report
"""
TESTS = """
import time
import pytest
from host_pace import judging_time

tried = dict.fromkeys(["late", "slow", "fast", "slow again", "bits", "both", "limit"], 0)

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

@pytest.mark.parametrize("memory", ["slow", "fast", "slow again"])
def test_always_late(shared, memory):
    with judging_time():
        assert count(memory) < 0

def test_wrong_bits(shared):
    assert count("bits") > 1

def test_late_and_unclean(shared, unclean):
    with judging_time():
        assert count("both") > 1

@pytest.mark.timeout(1)
def test_the_time_limit_is_of_each_attempt():
    time.sleep(0.4)
    with judging_time():
        assert count("limit") > 3

def test_how_often():
    assert tried == {"late": 3, "slow": 4, "fast": 4, "slow again": 1, "bits": 1, "both": 1, "limit": 4}
"""


def test_only_what_was_judged_by_time_is_tried_again_and_excused_where_memory_is_slow_in_the_end(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_it=TESTS)
    pytester.makeini("[pytest]\ntimeout = 60\n")
    done = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-raR")
    done.assert_outcomes(passed=3, failed=3, errors=1, xfailed=2)
    assert done.parseoutcomes()["rerun"] == 2 + 3 + 3 + 3
    done.stdout.fnmatch_lines(["RERUN *test_late_twice*", "XFAIL *always_late?slow?*judges time*"])
