"""Emulation tests need root and a kernel with namespaces, traffic control and cgroups: here they run or they fail.

A skipped emulation test would let a green run say nothing, so every skip in this folder, of a test or of a
whole module, is turned into a failure with its reason.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from running import Place, short_place

NOT_SKIPPED = "an emulation test may not be skipped, this machine must be able to run it"


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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a test's skip into a failure; an expected failure (xfail) stays what it is."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        _fail(report)
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
