"""Sandbox tests need User-Mode Linux and nothing else, root least of all: here they run or they fail.

As root they run the sandbox as another user, so that what is shown holds for everyone; a skip is a failure.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from guests import Sandbox, user
from host_pace import excuse_on_a_slow_host, try_again

NOT_SKIPPED = "a sandbox test may not be skipped, User-Mode Linux must be here (script/setup test installs it)"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Try those again that judge time."""
    for item in items:
        if item.get_closest_marker("quiet"):
            try_again(item)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A sandbox with a fresh home, which must be empty of its traces in the end."""
    home = Path(tempfile.mkdtemp(prefix="hr-sandbox-"))
    home.chmod(0o755)
    os.chown(home, user().uid, user().uid if user().prefix else -1)
    made = Sandbox(home)
    yield made
    left = made.left_behind()
    shutil.rmtree(home, ignore_errors=True)
    assert not left


@pytest.fixture(autouse=True)
def needs_uml() -> None:
    """Fail in one sentence where the test could only fail in many."""
    from testbed.sandbox.guest import lacking

    missing = lacking()
    if missing is not None:
        pytest.fail(missing, pytrace=False)


@pytest.hookimpl(wrapper=True, trylast=True)  # what repeats tests must see what we have made of a skip
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a test's skip into a failure."""
    report: Any = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{NOT_SKIPPED}: {reason}"
    excuse_on_a_slow_host(item, call, report)
    return report
