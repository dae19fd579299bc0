"""The sockets: nothing is dropped silently, paths are short enough, and headers weigh what the cost model says."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import zmq
from host_pace import AGAIN, judging_time
from planes import activation, has_message, receive

from testbed.emulation.memory_limits import WORKER_RESERVE_BYTES
from testbed.errors import ConfigError, RunFailed
from testbed.transport.addresses import MAX_SOCKET_PATH
from testbed.transport.control import ControlHub, ControlLine
from testbed.transport.data import Chunk, DataPlane, _encode
from testbed.transport.messages import Collect, Decode, Loaded, Stop, decode_command, encode
from testbed.transport.sending import Links
from testbed.transport.zmtp import opening

pytestmark = AGAIN
Context = zmq.Context[zmq.Socket[bytes]]
DEVICES = ["a", "b", "device-ä", *(f"device-{count}" for count in range(20))]
# Never ended: libzmq sometimes waits for ever for a socket that has been refused.
STRANGERS: Context = zmq.Context()


@pytest.fixture
def context() -> Iterator[Context]:
    made: Context = zmq.Context()
    yield made
    made.destroy(linger=0)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[ControlHub]:
    made = ControlHub(tmp_path, DEVICES)
    yield made
    made.close()


def greet(hub: ControlHub, line: ControlLine) -> None:
    """Wait until the hub knows the worker."""
    line.send(Loaded(0))
    assert poll_until(hub, 1) == [(line._name.decode(), Loaded(0))]


def poll_until(hub: ControlHub, count: int) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    deadline = time.monotonic() + 10
    while len(found) < count and time.monotonic() < deadline:
        found += hub.poll(0.2)
    return found


# --- control -------------------------------------------------------------------------------------------


def test_commands_reach_the_device_they_are_for_in_order(hub: ControlHub, context: Context, tmp_path: Path) -> None:
    lines = {name: ControlLine(context, tmp_path, name) for name in ("a", "b", "device-ä")}
    for line in lines.values():
        greet(hub, line)
    for count in range(200):
        for name in lines:
            hub.send(name, Decode(count) if name != "b" else Collect(count))
    for name, line in lines.items():
        assert [line.receive() for _ in range(200)] == [(Collect if name == "b" else Decode)(n) for n in range(200)]


def test_events_arrive_with_their_senders_name_and_in_each_senders_order(
    hub: ControlHub, context: Context, tmp_path: Path
) -> None:
    lines = [ControlLine(context, tmp_path, name) for name in ("a", "b")]
    for count in range(3000):  # more than a default high-water mark
        for line in lines:
            line.send(Loaded(count))
    found = poll_until(hub, 6000)
    for name in ("a", "b"):
        assert [event for sender, event in found if sender == name] == [Loaded(count) for count in range(3000)]


def test_a_command_for_a_device_that_never_came_is_an_error_that_names_it(hub: ControlHub) -> None:
    with pytest.raises(RunFailed, match="device ghost cannot be reached"):
        hub.send("ghost", Stop())


def test_a_worker_that_has_been_heard_can_be_told_even_if_its_greeting_comes_late(
    hub: ControlHub, context: Context, tmp_path: Path
) -> None:
    events, commands = context.socket(zmq.PUSH), context.socket(zmq.DEALER)
    events.connect(f"ipc://{tmp_path / 'events'}")
    events.send_multipart([b"a", encode(Loaded(0))])
    commands.setsockopt(zmq.IDENTITY, b"a")

    def greet_late() -> None:
        time.sleep(0.1)
        commands.connect(f"ipc://{tmp_path / 'commands'}")
        commands.send(b"")

    late = threading.Thread(target=greet_late)
    late.start()
    assert poll_until(hub, 1) == [("a", Loaded(0))]
    hub.send("a", Stop())
    late.join()
    assert commands.poll(5000) and decode_command(commands.recv()) == Stop()


def test_a_command_for_a_device_that_has_gone_is_an_error(hub: ControlHub, context: Context, tmp_path: Path) -> None:
    line = ControlLine(context, tmp_path, "a")
    greet(hub, line)
    hub.send("a", Decode(1))
    assert line.receive() == Decode(1)
    line.close()
    deadline = time.monotonic() + 5
    with pytest.raises(RunFailed, match="device a cannot be reached"):
        while time.monotonic() < deadline:
            hub.send("a", Decode(2))
            time.sleep(0.01)


def test_a_workers_last_words_arrive_even_if_its_process_ends_at_once(hub: ControlHub, tmp_path: Path) -> None:
    """What went wrong on a device must not be lost with it."""
    code = f"""
import os, zmq
from pathlib import Path
from testbed.transport.control import ControlLine
from testbed.transport.messages import Failed
context = zmq.Context()
for count in range(20):
    line = ControlLine(context, Path({str(tmp_path)!r}), f"device-{{count}}")
    line.send(Failed("why", "x" * 3_000_000))
    line.close()
os._exit(1)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 1
    found = poll_until(hub, 20)
    assert {name for name, _ in found} == {f"device-{count}" for count in range(20)}


def test_polling_without_events_returns_after_the_timeout(hub: ControlHub) -> None:
    started = time.monotonic()
    assert hub.poll(0.05) == []
    took_s = time.monotonic() - started
    assert took_s > 0.04
    with judging_time():
        assert took_s < 1.0


@pytest.mark.parametrize("letter", ["x", "é"])
def test_a_socket_path_that_the_kernel_would_cut_is_refused(tmp_path: Path, letter: str) -> None:
    """sun_path has room for 107 bytes, not characters."""
    room = MAX_SOCKET_PATH - len(str(tmp_path)) - 1 - len("/commands")
    fits = tmp_path / ("x" * room)
    fits.mkdir()
    ControlHub(fits, DEVICES).close()
    size = len(letter.encode())
    too_long = tmp_path / (letter * (room // size + 1))
    with pytest.raises(ConfigError, match="at most 107") as caught:
        ControlHub(too_long, DEVICES)
    assert str(too_long) in str(caught.value) and "\n" not in str(caught.value)


def test_what_no_device_sent_is_dropped_and_counted(hub: ControlHub, context: Context, tmp_path: Path) -> None:
    events, commands = context.socket(zmq.PUSH), context.socket(zmq.DEALER)
    events.connect(f"ipc://{tmp_path / 'events'}")
    commands.connect(f"ipc://{tmp_path / 'commands'}")
    broken = [[b""], [b"a"], [b"a", b"\xc1"], [b"\xff", encode(Loaded(1))], [b"ghost", encode(Loaded(1))], [b"a"] * 5]
    for frames in broken * 50:
        events.send_multipart(frames)
        commands.send_multipart(frames)
    line = ControlLine(context, tmp_path, "a")
    line.send(Loaded(2))
    found: list[tuple[str, object]] = []
    assert eventually(lambda: bool(found.extend(hub.poll(0.1)) or (hub.dropped >= 600 and found)))
    assert hub.dropped == 600
    assert found == [("a", Loaded(2))]
    hub.send("a", Stop())
    assert line.receive() == Stop()


def test_what_a_sender_left_that_has_gone_is_counted_too(hub: ControlHub, tmp_path: Path) -> None:
    others: Context = zmq.Context()
    commands = others.socket(zmq.DEALER)
    commands.set_hwm(0)
    commands.connect(f"ipc://{tmp_path / 'commands'}")
    for _ in range(10_000):
        commands.send(b"garbage")
    commands.close()
    leaving = threading.Thread(target=others.term)  # returns when all has left
    leaving.start()
    leaving.join(2)
    assert eventually(lambda: hub.poll(0.01) == [] and hub.dropped == 10_000)
    leaving.join()


# --- data ----------------------------------------------------------------------------------------------


def test_messages_of_one_sender_keep_their_order_and_their_bytes() -> None:
    here, there = (DataPlane("tcp://127.0.0.1:*") for _ in range(2))
    here.know({"b": there.address})
    sent = []
    for size in [0, 1, 255, 256, 65536, *range(100, 2000)]:
        sent.append((Chunk("a", 0.0, 0.0, 0.0, 1, "head(0,0)", len(sent), size, 0), bytes([size % 251]) * size))
        here.send("b", *sent[-1])
    assert [receive(there) for _ in sent] == sent


def test_what_is_sent_apart_comes_by_a_connection_of_its_own_until_the_peer_is_forgotten() -> None:
    sender, receiver = DataPlane("tcp://127.0.0.1:*"), DataPlane("tcp://127.0.0.1:*")
    sender.know({"b": receiver.address})
    sender.connect_apart("b")
    sender.send_apart("b", activation(), b"apart")
    sender.send("b", activation(), b"usual")
    assert sorted(bytes(receive(receiver)[1]) for _ in range(2)) == [b"apart", b"usual"]
    sender.forget(["b"])
    sender.connect_apart("b")
    sender.send_apart("b", activation(), b"nothing")
    assert not has_message(receiver, 0.2)
    sender.close()
    receiver.close()


def test_what_a_thread_still_has_for_a_forgotten_peer_is_dropped_and_not_waited_for() -> None:
    links, gone = Links(opening(None)), "tcp://127.0.0.1:9"
    link = links.to(gone)
    links.forget(gone)
    links.send(link, [b"late"])
    began_s = time.monotonic()
    links.close(linger_s=5.0)
    with judging_time():
        assert time.monotonic() - began_s < 2.0


def test_a_peer_that_is_lost_stays_known_until_it_is_forgotten() -> None:
    """The addresses of the others may come before the word that a peer is lost, in the middle of a pass."""
    sender, receiver = DataPlane("tcp://127.0.0.1:*"), DataPlane("tcp://127.0.0.1:*")
    sender.know({"b": receiver.address, "c": receiver.address})
    sender.know({"c": receiver.address})
    sender.send("b", activation())
    sender.forget(["b"])
    with pytest.raises(RunFailed, match="'b' has no connection"):
        sender.send("b", activation())
    sender.close()
    receiver.close()


def test_the_buffer_may_be_overwritten_as_soon_as_it_is_sent() -> None:
    """Activations and KV pages are reused at once; a message must not see what comes after."""
    here, there = (DataPlane("tcp://127.0.0.1:*") for _ in range(2))
    here.know({"b": there.address})
    buffer = bytearray(b"\x01" * 500_000)
    here.send("b", activation(), memoryview(buffer))
    buffer[:] = b"\x02" * len(buffer)
    assert receive(there)[1] == b"\x01" * len(buffer)


@pytest.mark.parametrize("kind", ["tcp://127.0.0.1:*", "ipc://{}/data"])
def test_messages_that_come_while_nobody_looks_have_the_time_at_which_they_came(kind: str, tmp_path: Path) -> None:
    """Also two of one sender, which the kernel joins."""
    there = DataPlane(kind.format(tmp_path))
    peers = [DataPlane("tcp://127.0.0.1:*") for _ in range(2)]
    for peer in peers:
        peer.know({"b": there.address})
        peer.send("b", activation())
    for _ in peers:
        receive(there)
    sent = []
    for turn in range(6):
        peers[turn % 2].send("b", header := activation(str(turn)), bytes(3000))
        sent.append(header)
        time.sleep(0.01)
    found = there.take(1.0)
    assert [one.header for one in found] == sent
    late_s = [one.received_s - one.header.sent_s for one in found]
    assert min(late_s) >= 0 and not there.take(0.0)
    with judging_time():
        assert max(late_s) < 0.005


def test_a_large_message_leaves_and_arrives_whole_while_its_receiver_looks_elsewhere() -> None:
    here, there = (DataPlane("tcp://127.0.0.1:*") for _ in range(2))
    here.know({"b": there.address})
    payloads = [bytes([number]) * 10_000_000 for number in range(3)]  # far more than the kernel takes at once
    started = time.monotonic()
    for payload in payloads:
        here.send("b", activation(), payload)
    took_s = time.monotonic() - started
    time.sleep(0.1)
    assert [receive(there)[1] == payload for payload in payloads] == [True] * 3
    with judging_time():
        assert took_s < 1.0, "the sender waited"


def test_messages_for_a_peer_that_comes_later_wait_and_one_that_has_gone_is_no_error(tmp_path: Path) -> None:
    here, address = DataPlane("tcp://127.0.0.1:*"), f"ipc://{tmp_path}/late"
    here.know({"b": address})
    for number in range(3):
        here.send("b", activation(str(number)))
    there = DataPlane(address)
    assert [receive(there)[0].sender for _ in range(3)] == ["0", "1", "2"]
    there.close()
    for _ in range(3):
        here.send("b", activation("lost"))
    again = DataPlane(address)
    assert eventually(lambda: here.send("b", activation("again")) is None and has_message(again, 0.1))


SECRET = b"0123456789abcdef"


def eventually(look: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not (found := look()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def test_who_knows_the_runs_secret_is_heard_and_who_does_not_is_refused_and_counted() -> None:
    here, there = (DataPlane("tcp://127.0.0.1:*", SECRET) for _ in range(2))
    for secret in (None, b"guess", SECRET[:-1], SECRET + b"x"):
        stranger = STRANGERS.socket(zmq.PUSH)
        stranger.linger = 0
        if secret is not None:
            stranger.plain_username, stranger.plain_password = b"peer", secret
        stranger.connect(there.address)
        with contextlib.suppress(zmq.Again):  # once it has been refused
            for _ in range(100):
                stranger.send_multipart([_encode(activation()), b"forged"], zmq.NOBLOCK)
    host, port = there.address.removeprefix("tcp://").split(":")
    for _ in range(50):
        with socket.create_connection((host, int(port))) as one:
            one.sendall(b"GET / HTTP/1.1\r\n\r\n" * 10)
    here.know({"b": there.address})
    here.send("b", sent := activation(), b"true")
    assert receive(there) == (sent, b"true")
    assert eventually(lambda: there.strangers() >= 54)
    assert not has_message(there, 0.1) and here.strangers() == 0


def test_six_hundred_strangers_cost_less_memory_than_a_worker_has_in_reserve() -> None:
    there = DataPlane("tcp://127.0.0.1:*", SECRET, most_bytes=2**17)
    host, port = there.address.removeprefix("tcp://").split(":")
    before = psutil.Process().memory_full_info().uss
    with contextlib.ExitStack() as stack:
        for number in range(600):
            one = stack.enter_context(socket.create_connection((host, int(port))))
            with contextlib.suppress(OSError):  # some are cut off at once
                one.sendall((b"", b"GET / HTTP/1.1\r\n\r\n", os.urandom(200))[number % 3])
        assert eventually(lambda: there.strangers() >= 600)
        assert psutil.Process().memory_full_info().uss - before < WORKER_RESERVE_BYTES / 2


def test_a_frame_longer_than_any_of_a_run_ends_its_connection() -> None:
    there = DataPlane("tcp://127.0.0.1:*", most_bytes=1000)
    room = 1000 - 2 - len(_encode(activation()))  # a frame also has its header, and the length of that
    for size, arrives in ((room, True), (room + 1, False)):
        here = DataPlane("tcp://127.0.0.1:*")
        here.know({"b": there.address})
        here.send("b", activation(), bytes(size))
        assert has_message(there, 10.0 if arrives else 0.3) == arrives
        if arrives:
            receive(there)


@pytest.mark.parametrize("frames", [[b"x"], [b"", b""], [b"x"] * 5, [encode(Stop()), b""]])
def test_a_message_that_is_none_of_the_data_plane_is_an_error_in_one_sentence(
    context: Context, frames: list[bytes], tmp_path: Path
) -> None:
    there = DataPlane(f"ipc://{tmp_path}/data")
    pushing = context.socket(zmq.PUSH)
    pushing.connect(there.address)
    pushing.send_multipart(frames)
    with pytest.raises(RunFailed, match="a peer sent what is no message of the data plane"):
        receive(there)


def test_an_address_that_is_taken_is_an_error_and_leaves_no_socket() -> None:
    first = DataPlane("tcp://127.0.0.1:*")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(RunFailed, match="cannot be bound: Address already in use"):
        DataPlane(first.address, SECRET)
    assert len(os.listdir("/proc/self/fd")) <= before  # those of other tests are closed when they are collected
