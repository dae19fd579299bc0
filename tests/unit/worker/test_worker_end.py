"""How a worker ends when something is wrong: it tells the controller why, and is gone within a second."""

from __future__ import annotations

import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import zmq
from host_pace import AGAIN, judging_time

from testbed.emulation.spawn import forkserver, start_worker
from testbed.models.presets import PRESETS
from testbed.placement.blocks import WHOLE
from testbed.transport.control import ControlHub
from testbed.transport.messages import Connect, Connected, Failed, Hello, Load, Message, Ping
from testbed.worker.config import WorkerConfig

pytestmark = AGAIN


class Standing:
    """A worker that stands, and the hub that commands it."""

    def __init__(self, folder: Path) -> None:
        self.hub = ControlHub(folder, ["a"])
        config = WorkerConfig(
            "a", PRESETS["tiny"], None, 0, 64, 16, WHOLE, f"ipc://{folder}/data", None, 2**20, str(folder), None, None,
            True, 1.0, 0.005, True,
        )  # fmt: skip
        self.process: ForkServerProcess = start_worker(forkserver(), config)
        hello = self.next()
        assert isinstance(hello, Hello)
        self.address = hello.address

    def next(self) -> Message:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if found := self.hub.poll(0.2):
                return found[0][1]
        raise AssertionError("the worker said nothing")


@pytest.fixture
def worker() -> Iterator[Standing]:
    with TemporaryDirectory(prefix="hr-") as folder:
        made = Standing(Path(folder))
        yield made
        made.process.kill()
        made.hub.close()


def ends_with(worker: Standing, words: str) -> None:
    event = worker.next()
    assert isinstance(event, Failed) and words in event.reason and "\n" not in event.reason
    told_s = time.monotonic()
    worker.process.join(30.0)
    assert not worker.process.is_alive()
    with judging_time():
        assert time.monotonic() - told_s < 1.0


@pytest.mark.parametrize("frames", [[b"x"], [b"\xc1", b""], [b"", b"", b""]])
def test_a_worker_that_cannot_decode_a_peers_frame_says_so_and_ends(worker: Standing, frames: list[bytes]) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    peer = context.socket(zmq.PUSH)
    peer.connect(worker.address)
    peer.send_multipart(frames)
    ends_with(worker, "device a: a peer sent what is no message of the data plane")
    context.destroy(linger=0)


def test_a_worker_that_fails_with_messages_for_a_peer_that_is_gone_ends_all_the_same(worker: Standing) -> None:
    worker.hub.send("a", Connect({"b": worker.address.replace("data", "gone")}))
    worker.hub.send("a", Ping("b", 1))
    assert worker.next() == Connected()
    worker.hub.send("a", Load(["nonsense"], pinned=False))
    ends_with(worker, "device a")
