"""Where more than 1024 files are open, waits work as elsewhere; select(2) takes no such descriptors."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Iterator

import pytest

from testbed.emulation.capsule import launch
from testbed.transport.data import DataPlane, PingFrame
from testbed.waiting import await_readable

FILES = 1100


@pytest.fixture
def many_files() -> Iterator[None]:
    """Only high descriptors are left."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * FILES, hard))
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(FILES)]
    yield
    for descriptor in opened:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
def test_a_wait_ends_with_what_comes_or_at_most_a_millisecond_early() -> None:
    bell = os.eventfd(0)
    started = time.monotonic()
    assert not await_readable(bell, 0.0045)
    assert time.monotonic() - started >= 0.0035
    os.eventfd_write(bell, 1)
    assert await_readable(bell, None)
    os.close(bell)


@pytest.mark.usefixtures("many_files")
def test_messages_are_received() -> None:
    plane, peer = DataPlane("tcp://127.0.0.1:*"), DataPlane("tcp://127.0.0.1:*")
    peer.know({"a": plane.address})
    peer.send("a", PingFrame("b", time.monotonic(), 0.0, 0.0, 1, False), b"x")
    deadline = time.monotonic() + 10
    while not plane.take(0.5):
        assert time.monotonic() < deadline
    plane.close()
    peer.close()


@pytest.mark.usefixtures("many_files")
def test_a_process_is_supervised() -> None:
    assert launch([sys.executable, "-S", "-c", "raise SystemExit(7)"], capsule=False) == 7
