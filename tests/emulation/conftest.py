"""Emulation tests need root and a kernel with namespaces, traffic control and cgroups: here they run or they fail.

A skipped emulation test would let a green run say nothing, so every skip in this folder, of a test or of a
whole module, is turned into a failure with its reason. In the sandbox those that are marked `host_only` are left out.

The tests of runs take their switch from TESTBED_TEST_SWITCH (linuxbridge, openvswitch), see `running`.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from host_pace import excuse_on_a_slow_host, judging_time, try_again
from running import IN_GUEST, QUICKSTART, Ended, Place, has_netem, interfaces, short_place

QUICKSTART_S = 380.0  # it may have to wait for other emulated runs on this host
NOT_SKIPPED = "an emulation test may not be skipped, this machine must be able to run it"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out in User-Mode Linux what says nothing there, and elsewhere what needs a netem that is not there.

    Any of the others may judge time, and is then tried again.
    """
    unwanted = {"host_only"} if IN_GUEST else set()
    if not IN_GUEST and any(item.get_closest_marker("needs_netem") for item in items) and not has_netem():
        unwanted = {"needs_netem"}
    left_out = [item for item in items if any(item.get_closest_marker(name) for name in unwanted)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
    for item in items:
        try_again(item)


@pytest.fixture(autouse=True)
def needs_root() -> None:
    """Fail in one sentence where the test could only fail in many."""
    if os.geteuid() != 0:
        pytest.fail("emulation tests need root: run `sudo .venv/bin/python -m pytest tests/emulation`", pytrace=False)


@pytest.fixture
def place() -> Iterator[Place]:
    """Folders of its own for a test's runs."""
    with short_place() as made:
        yield made


@pytest.fixture(scope="session")
def quickstart() -> Iterator[Ended]:
    """The quick start as it is, run once for all who look at it; it was faithful and has left nothing behind."""
    before = interfaces()
    with short_place() as place:
        ended = place.replay(
            QUICKSTART, "--backend", "mininet", "--policy", "paper-search", "--verify", timeout=QUICKSTART_S
        )  # fmt: skip
        assert place.left_behind() == [] and interfaces() <= before
        assert ended.code in (0, 4), ended.err
        with judging_time():
            assert ended.code == 0, ended.err
        yield ended


@pytest.hookimpl(wrapper=True, trylast=True)  # what repeats tests must see what we have made of a skip
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a test's skip into a failure; an expected failure (xfail) stays what it is."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        _fail(report)
    excuse_on_a_slow_host(item, call, report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn a module's skip into a collection error."""
    report = yield
    if report.skipped:
        _fail(report)
    return report


def _fail(report: Any) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"{NOT_SKIPPED}: {reason}"
