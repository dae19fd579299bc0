"""What every fuzz test of this folder lives under; a file `fuzz_<reader>.py` is about one reader.

The tests of a reader share `TESTBED_FUZZ_CASES` cases evenly (2,000 where it is not set, as in CI; `script/fuzz` sets
20,000). A case that ends, or raises of the family of `TestbedError` with one printable sentence, is right. One that
raises anything else, computes for more than `CASE_SECONDS` or takes more than `CASE_BYTES` fails. Tests need no
settings of their own, and must not catch more than `TestbedError`.
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

# Arrow's own allocators reserve more than a case may take before they hold anything. Read when it is imported.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

import pytest
from hypothesis import HealthCheck, settings

from testbed.errors import TestbedError

CI_CASES = 2000
CASES = int(os.environ.get("TESTBED_FUZZ_CASES", CI_CASES))
CASE_SECONDS = 2.0  # of computing, so that a busy machine fails nobody
TEST_SECONDS = 600 + CASES // 2  # of all cases of a test; a case that waits for ever ends here
CASE_BYTES = 500 * 2**20
MESSAGE_CHARACTERS = 1000  # a sentence that a terminal shows at once

settings.register_profile(
    "fuzz",
    deadline=None,  # computing is limited below, and while it goes on
    database=None,
    derandomize=CASES <= CI_CASES,  # what CI tries is the same until its test changes
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)

_counted: dict[str, int] = defaultdict(int)  # test function -> cases that ended well


class _TooLong(BaseException):
    """Not an Exception, so that no reader takes it for its own."""


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
    """What a user reads of it is one line that no terminal takes for a command."""
    message = str(error)
    assert message.strip(), f"{type(error).__name__} says nothing"
    assert len(message) <= MESSAGE_CHARACTERS, f"{len(message)} characters: {message[:200]!r}…"


@contextmanager
def _limits() -> Iterator[None]:
    """Fail what is in here when it takes too long or too much, as soon as it does."""
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
    """Put the number of cases into the test's report."""
    yield
    name = getattr(request.function, "fuzzed", None)
    if name is not None:
        request.node.user_properties.append(("cases", _counted.pop(name, 0)))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """A line for each reader: its cases, and how long they took."""
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
