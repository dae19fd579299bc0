"""Emulated arrival: messages are held until they are due, in each sender's order, and links cut through."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest
import zmq
from host_pace import AGAIN, judging_time
from hypothesis import given
from hypothesis import strategies as st

from testbed.placement.blocks import wire_bytes
from testbed.placement.latency import transfer_seconds
from testbed.placement.observation import Leg
from testbed.transport.control import ControlHub, ControlLine
from testbed.transport.data import DataPlane, PingFrame
from testbed.transport.messages import Decode, Loaded, PathView
from testbed.wire import OUTAGE_BPS
from testbed.worker.inbox import Delivery, Inbox, LinkClock
from testbed.worker.outbox import Outbox

pytestmark = AGAIN
_ALIVE: list[object] = []  # a worker's receiving thread ends its process when its sockets go: they stay until we end


class Bench:
    """An inbox on real sockets, with peers that send to it and a hub that commands it."""

    def __init__(self, folder: Path, peers: str = "bc") -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.hub = ControlHub(folder, ["a"])
        self.line = ControlLine(context, folder, "a")
        self.plane = DataPlane("tcp://127.0.0.1:*")
        self.peers: dict[str, DataPlane] = {}
        for name in peers:
            self.peers[name] = DataPlane("tcp://127.0.0.1:*")
            self.peers[name].know({"a": self.plane.address})
        self.inbox = Inbox(self.line, self.plane)
        _ALIVE.append((self, context))
        self.inbox.start()
        self.line.send(Loaded(0))
        while not self.hub.poll(0.1):
            continue
        self.count = 0
        for name in peers:  # the connections stand
            self.send(name)
            self.inbox.get()

    def send(self, peer: str) -> None:
        self.count += 1
        self.peers[peer].send("a", PingFrame(peer, time.monotonic(), 0.0, 0.0, self.count, False), b"x" * 100)


def number(delivery: Delivery) -> int:
    assert delivery.is_data
    header, _ = delivery.content  # type: ignore[misc]
    return int(header.count)


def still(folder: Path) -> Inbox:
    """An inbox that receives nothing; its rules are asked directly."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    line, plane = ControlLine(context, folder, "a"), DataPlane("tcp://127.0.0.1:*")
    _ALIVE.append((context, line, plane))
    return Inbox(line, plane)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> tuple[ControlLine, DataPlane]:
    inbox = still(tmp_path_factory.mktemp("control"))
    return inbox._line, inbox._plane


def test_a_message_is_held_until_its_receipt_plus_the_delay_and_not_much_longer(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.inbox.set_paths({"b": PathView(0.03, 0.0)})
    late = []
    for _ in range(9):
        bench.send("b")
        delivery = bench.inbox.get()
        late.append(time.monotonic() - delivery.due_s)
        assert delivery.due_s == pytest.approx(delivery.received_s + 0.03, abs=1e-9)
    assert min(late) >= 0
    with judging_time():
        assert median(late) < 0.005


def test_messages_keep_their_senders_order_when_the_delay_falls(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    first = bench.count + 1
    bench.inbox.set_paths({"b": PathView(0.15, 0.0)})
    for _ in range(5):
        bench.send("b")
    time.sleep(0.05)  # all five have been received under the long delay
    bench.inbox.set_paths({"b": PathView(0.0, 0.0)})
    for _ in range(5):
        bench.send("b")
    found = [bench.inbox.get() for _ in range(10)]
    assert [number(delivery) for delivery in found] == list(range(first, first + 10))
    dues = [delivery.due_s for delivery in found]
    assert dues == sorted(dues)
    with judging_time():
        assert found[5].due_s - found[5].received_s > 0.05, "the sixth waited for the fifth"


def test_a_near_peers_message_overtakes_a_far_peers(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.inbox.set_paths({"b": PathView(0.2, 0.0), "c": PathView(0.0, 0.0)})
    bench.send("b")
    time.sleep(0.05)
    bench.send("c")
    with judging_time():
        assert [number(bench.inbox.get()) for _ in range(2)] == [bench.count, bench.count - 1]


def test_commands_and_notes_are_not_held_by_a_paths_delay(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.inbox.set_paths({"b": PathView(0.3, 0.0)})
    bench.send("b")
    time.sleep(0.05)
    bench.hub.send("a", Decode(5))
    with judging_time():
        assert bench.inbox.get().content == Decode(5)
        bench.inbox.post("a note")
        assert bench.inbox.get().content == "a note"
    assert number(bench.inbox.get()) == bench.count


def test_what_is_due_first_comes_first_even_if_it_was_received_while_nobody_looked(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.inbox.set_paths({"b": PathView(0.06, 0.0), "c": PathView(0.0, 0.0)})
    bench.send("b")
    bench.inbox.post("wake")
    time.sleep(0.02)
    assert bench.inbox.get().content == "wake"  # b's message is now held
    bench.send("c")
    time.sleep(0.1)  # both are due, c's was due earlier
    with judging_time():
        assert [number(bench.inbox.get()) for _ in range(2)] == [bench.count, bench.count - 1]


events = st.lists(
    st.tuples(st.sampled_from("bc"), st.floats(0, 0.01), st.floats(0, 0.1), st.integers(0, 20_000)), max_size=30
)


@given(events=events, down_bps=st.sampled_from([0.0, 1e5, 1e7]))
def test_nothing_is_due_before_its_delay_nor_before_its_predecessor(
    quiet: tuple[ControlLine, DataPlane], events: list[tuple[str, float, float, int]], down_bps: float
) -> None:
    inbox, now = Inbox(*quiet), 100.0
    last: dict[str, float] = defaultdict(float)
    for sender, gap, delay, size in events:
        now += gap
        inbox.set_paths({name: PathView(delay, down_bps) for name in "bc"})
        due = inbox._due(PingFrame(sender, now, now, now, 1, False), size, now)
        assert due >= now + delay and due >= last[sender]
        if not down_bps:
            assert due == max(now + delay, last[sender])
        last[sender] = due


# --- links imposed in software -------------------------------------------------------------------------


def test_a_link_is_cut_through_and_first_in_first_out() -> None:
    link = LinkClock()
    # 1000 bytes at 8 kbit/s take 1 s; their first byte comes at 10, their last at 10.2: the link is the bottleneck.
    assert link.pass_through(10.0, 10.2, 1000, 8000) == pytest.approx(11.0)
    # Came meanwhile: waits its turn. Its last byte came long before.
    assert link.pass_through(10.1, 10.3, 500, 8000) == pytest.approx(11.5)
    # A slow feeder: the last byte passes when it comes, not a serialisation later.
    assert link.pass_through(20.0, 25.0, 1000, 8000) == pytest.approx(25.0)
    # An idle link starts with the first byte.
    assert link.pass_through(30.0, 30.0, 1000, 8000) == pytest.approx(31.0)


@given(
    st.lists(st.tuples(st.floats(0, 2), st.floats(0, 2), st.integers(1, 5000)), min_size=1, max_size=20),
    st.floats(1e3, 1e6),
)
def test_a_link_never_carries_more_than_its_rate(arrivals: list[tuple[float, float, int]], rate_bps: float) -> None:
    link, now, out, total = LinkClock(), 0.0, 0.0, 0
    for gap, length, size in arrivals:
        now += gap
        before, out = out, link.pass_through(now, now + length, size, rate_bps)
        total += size
        assert out >= max(before, now + length, now + size * 8 / rate_bps) - 1e-9
        assert out >= before + size * 8 / rate_bps - 1e-9
    assert out >= total * 8 / rate_bps - 1e-9


class Nowhere:
    """A data plane that keeps what it is given."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, PingFrame]] = []
        self.payloads: list[bytes] = []

    def send(self, peer: str, header: PingFrame, payload: memoryview | bytes) -> None:
        self.sent.append((peer, header))
        self.payloads.append(bytes(payload))


@pytest.mark.timeout(20)
def test_what_is_due_in_a_moment_comes_even_while_another_thread_computes(
    quiet: tuple[ControlLine, DataPlane],
) -> None:
    inbox, done = Inbox(*quiet), threading.Event()

    def compute() -> None:
        while not done.is_set():
            sum(range(2000))

    busy = threading.Thread(target=compute, daemon=True)
    busy.start()
    for turn in range(300):
        inbox._put(time.monotonic() + 2e-6, 0.0, turn)
        assert inbox.get().content == turn
    done.set()
    busy.join()


@given(up=st.floats(1e5, 1e9), down=st.floats(1e5, 1e9), delay=st.floats(0, 0.05), payload=st.integers(0, 100_000))
def test_one_message_over_two_software_links_takes_what_the_cost_model_says(
    quiet: tuple[ControlLine, DataPlane], up: float, down: float, delay: float, payload: int
) -> None:
    plane, inbox = Nowhere(), Inbox(*quiet)
    outbox = Outbox("b", plane)  # type: ignore[arg-type]
    outbox.set_rate(up)
    sent_s = outbox.send("a", PingFrame("", 0.0, 0.0, 0.0, 1, False), bytes(payload))
    [(peer, header)] = plane.sent
    assert (peer, header.sender, header.sent_s) == ("a", "b", sent_s)
    inbox.set_paths({"b": PathView(delay, min(up, down))})
    due = inbox._due(header, payload, sent_s)
    path = Leg(("b", "up"), up, delay), Leg(("a", "down"), down, 0.0)
    assert due - sent_s == pytest.approx(transfer_seconds(path, float(payload)), abs=1e-7)


def test_messages_sent_at_once_leave_one_after_another_at_the_uplinks_rate() -> None:
    plane = Nowhere()
    outbox = Outbox("b", plane)  # type: ignore[arg-type]
    outbox.set_rate(1e6)
    for _ in range(5):
        outbox.send("a", PingFrame("", 0.0, 0.0, 0.0, 1, False), bytes(10_000))
    headers = [header for _, header in plane.sent]
    each = wire_bytes(10_000) * 8 / 1e6
    assert headers[-1].departed_s - headers[0].sent_s == pytest.approx(5 * each, rel=1e-6)
    for before, after in pairwise(headers):
        assert after.departs_s == before.departed_s


def test_what_another_thread_sends_as_an_outage_ends_leaves_after_what_it_held() -> None:
    outbox: Outbox
    later = threading.Thread(target=lambda: outbox.send("a", PingFrame("", 0.0, 0.0, 0.0, 9, False), apart=True))

    class Slow(Nowhere):
        def send(self, peer: str, header: PingFrame, payload: memoryview | bytes) -> None:
            super().send(peer, header, payload)
            if not later.ident:
                later.start()
                later.join(0.05)

        send_apart = Nowhere.send

    plane = Slow()
    outbox = Outbox("b", plane)  # type: ignore[arg-type]
    outbox.set_rate(OUTAGE_BPS)
    for count in range(3):
        outbox.send("a", PingFrame("", 0.0, 0.0, 0.0, count, False))
    outbox.set_rate(1e6)
    later.join()
    assert [header.count for _, header in plane.sent] == [0, 1, 2, 9]


def test_what_an_outage_holds_for_a_peer_that_is_lost_meanwhile_never_leaves() -> None:
    plane = Nowhere()
    outbox = Outbox("b", plane)  # type: ignore[arg-type]
    outbox.set_rate(OUTAGE_BPS)
    for peer in "acad":
        outbox.send(peer, PingFrame("", 0.0, 0.0, 0.0, 1, False))
    outbox.forget(["a", "d"])
    outbox.set_rate(1e6)
    assert [peer for peer, _ in plane.sent] == ["c"]


def test_what_an_uplinks_outage_holds_leaves_in_order_when_it_is_over() -> None:
    plane = Nowhere()
    outbox = Outbox("b", plane)  # type: ignore[arg-type]
    outbox.set_rate(OUTAGE_BPS)
    buffer = bytearray(b"\x01" * 10)
    for count in range(3):
        outbox.send("a", PingFrame("", 0.0, 0.0, 0.0, count, False), memoryview(buffer))
    buffer[:] = b"\x02" * 10  # the sender goes on with its buffer
    assert not plane.sent
    over = time.monotonic()
    outbox.set_rate(1e6)
    outbox.send("a", PingFrame("", 0.0, 0.0, 0.0, 3, False))
    assert [header.count for _, header in plane.sent] == [0, 1, 2, 3]
    assert all(header.departs_s >= over for _, header in plane.sent)
    assert plane.payloads[:3] == [b"\x01" * 10] * 3


def test_what_a_downlinks_outage_holds_arrives_in_order_when_it_is_over(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    first = bench.count + 1
    bench.inbox.set_paths({"b": PathView(0.0, OUTAGE_BPS), "c": PathView(0.0, 0.0)})
    for _ in range(3):
        bench.send("b")
    time.sleep(0.02)
    bench.send("c")  # another path goes on
    assert number(bench.inbox.get()) == first + 3
    over = time.monotonic()
    bench.inbox.set_paths({"b": PathView(0.01, 1e8), "c": PathView(0.0, 0.0)})
    bench.send("b")
    found = [bench.inbox.get() for _ in range(4)]
    assert [number(delivery) for delivery in found] == [first, first + 1, first + 2, first + 4]
    assert all(delivery.due_s >= over + 0.01 for delivery in found)


def test_what_is_on_its_way_when_an_outage_begins_comes_as_much_later_as_the_outage_lasts(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    first, up = bench.count + 1, {"b": PathView(0.1, 1e9), "c": PathView(0.1, 1e9)}
    bench.inbox.set_paths(up)
    for peer in "bc":
        now = time.monotonic()
        bench.peers[peer].send("a", PingFrame(peer, now, now, now, first + (peer == "c"), False))
    time.sleep(0.02)
    bench.inbox.set_paths(up | {"b": PathView(0.1, OUTAGE_BPS)})
    assert number(bench.inbox.get()) == first + 1
    bench.inbox.set_paths(up)
    assert number(delivery := bench.inbox.get()) == first
    with judging_time():
        assert 0.07 < delivery.due_s - delivery.received_s - 0.1 < 0.13, "from 0.02 s on until c's came at 0.1 s"


def test_what_had_been_sent_before_an_uplinks_outage_still_takes_its_time_after_it() -> None:
    plane = Nowhere()
    outbox = Outbox("b", plane)  # type: ignore[arg-type]
    outbox.set_rate(1e6)
    for count in range(2):
        outbox.send("a", PingFrame("", 0.0, 0.0, 0.0, count, False), bytes(10_000))
    outbox.set_rate(OUTAGE_BPS)
    time.sleep(0.05)
    outbox.set_rate(1e6)
    outbox.send("a", PingFrame("", 0.0, 0.0, 0.0, 2, False))
    before, after = (header for _, header in plane.sent[1:])
    waited_s = after.departs_s - before.departed_s
    assert waited_s >= 0.05
    with judging_time():
        assert waited_s < 0.1


def test_an_outbox_without_a_rate_stamps_the_present() -> None:
    plane = Nowhere()
    before = time.monotonic()
    Outbox("b", plane).send("a", PingFrame("", 0.0, 0.0, 0.0, 1, False), bytes(10_000_000))  # type: ignore[arg-type]
    header = plane.sent[0][1]
    assert before <= header.sent_s == header.departs_s == header.departed_s <= time.monotonic()


@pytest.mark.parametrize(("on_its_way_s", "held_s"), [(0.0, 0.2), (0.06, 0.17), (10.0, 0.1)])
def test_a_message_that_waited_for_its_second_turn_on_a_medium_is_held_less(
    on_its_way_s: float, held_s: float, tmp_path: Path
) -> None:
    bench = Bench(tmp_path)
    bench.inbox.set_paths({"b": PathView(0.2, 0.0, 0.1)})
    bench.peers["b"].send("a", PingFrame("b", time.monotonic() - on_its_way_s, 0.0, 0.0, 1, False))
    delivery = bench.inbox.get()
    with judging_time():
        assert delivery.due_s - delivery.received_s == pytest.approx(held_s, abs=0.02)
