"""Gives all fuzz tests their cases and limits; a file `fuzz_<reader>.py` tests one reader.

The tests of a reader share `TESTBED_FUZZ_CASES` cases evenly (by default 2,000, as in CI; `script/fuzz` sets 20,000). A
case passes if it ends, or raises a `TestbedError` with one printable sentence. It fails if it raises anything else,
computes for more than `CASE_SECONDS`, or allocates more than `CASE_BYTES`. Tests need no settings of their own, and
must not catch more than `TestbedError`.
"""

from __future__ import annotations

import functools
import os
import resource
import signal
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Arrow's own allocators reserve more memory than a case may use. Arrow reads this when it is imported.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

import pytest
from hypothesis import HealthCheck, settings

from testbed.errors import TestbedError

CI_CASES = 2000
CASES = int(os.environ.get("TESTBED_FUZZ_CASES", CI_CASES))
CASE_SECONDS = 2.0  # of computing, so that a busy machine fails no case
TEST_SECONDS = 600 + CASES // 2  # for all cases of a test; a case that waits forever ends here
CASE_BYTES = 500 * 2**20
MESSAGE_CHARACTERS = 1000  # a sentence that a terminal shows at once

settings.register_profile(
    "fuzz",
    deadline=None,  # `_limits` limits the time of a case while it runs
    database=None,
    derandomize=CASES <= CI_CASES,  # CI tries the same cases until the test changes
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)

_counted: dict[str, int] = defaultdict(int)  # test function -> cases that passed


class _TooLong(BaseException):
    """Derived from BaseException, so that no reader catches it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of this folder their number of cases, and each case its limits."""
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in here:
        item.add_marker(pytest.mark.timeout(TEST_SECONDS))
    tests = {test for item in here if getattr(test := getattr(item, "function", None), "is_hypothesis_test", False)}
    readers = Counter(test.__module__ for test in tests)
    for test in tests:
        cases = -(-CASES // readers[test.__module__])
        settings(settings.get_profile("fuzz"), max_examples=cases)(test)
        test.fuzzed = f"{test.__module__}::{test.__name__}"
        test.hypothesis.inner_test = _limited(test.hypothesis.inner_test, test.fuzzed)


def _limited(case: Callable[..., Any], name: str) -> Callable[..., None]:
    @functools.wraps(case)
    def limited(*args: Any, **kwargs: Any) -> None:
        with _limits():
            try:
                case(*args, **kwargs)
            except TestbedError as error:
                assert_sentence(error)
        _counted[name] += 1

    return limited


def assert_sentence(error: TestbedError) -> None:
    """The message is one line without control characters."""
    message = str(error)
    assert message.strip(), f"{type(error).__name__} says nothing"
    assert len(message) <= MESSAGE_CHARACTERS, f"{len(message)} characters: {message[:200]!r}…"


@contextmanager
def _limits() -> Iterator[None]:
    """Fail the block as soon as it computes too long or allocates too much."""
    pages = int(Path("/proc/self/statm").read_text().split()[5])  # data and stack
    before = resource.getrlimit(resource.RLIMIT_DATA)
    most = pages * resource.getpagesize() + CASE_BYTES
    previous = signal.signal(signal.SIGPROF, _out_of_time)
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (most, before[1]))
        signal.setitimer(signal.ITIMER_PROF, CASE_SECONDS)
        yield
    except _TooLong:
        raise AssertionError(f"the case computes for more than {CASE_SECONDS:g} s") from None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _out_of_time(*_: object) -> None:
    raise _TooLong


@pytest.fixture(autouse=True)
def _cases(request: pytest.FixtureRequest) -> Iterator[None]:
    """Add the number of cases to the test's report."""
    yield
    name = getattr(request.function, "fuzzed", None)
    if name is not None:
        request.node.user_properties.append(("cases", _counted.pop(name, 0)))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print a line for each reader with its number of cases and their time."""
    cases: dict[str, int] = defaultdict(int)
    seconds: dict[str, float] = defaultdict(float)
    for report in (report for kind in ("", "passed", "failed") for report in terminalreporter.getreports(kind)):
        reader = Path(report.nodeid.partition("::")[0]).stem.removeprefix("fuzz_")
        seconds[reader] += report.duration
        if report.when == "teardown":
            cases[reader] += dict(report.user_properties).get("cases", 0)
    if any(cases.values()):
        terminalreporter.section("cases")
        for reader in sorted(cases):
            terminalreporter.line(f"{reader}: {cases[reader]:,} cases in {seconds[reader]:.0f} s")
