"""A wifi in the kernel: all stations and both directions share one queue, and the twin takes as long per token."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from host_pace import judging_time
from namespaces import ip, namespaces
from running import IN_GUEST, UNJUDGED, Place, assert_they_end, interfaces, rows, topology, write_experiment

from testbed.emulation.medium import share_medium
from testbed.emulation.shaping import Shaper, in_netns
from testbed.errors import EnvironmentLacks
from testbed.wire import TCP_SHARE

RATE_BPS = 20e6
SECONDS = 2.0  # of a flow
SETTLE_S = 0.5
QUEUED = 0.05  # of what passes meanwhile, by which what waits for its second turn may differ before and after
# An acknowledgement of 66 bytes for two segments at most, which share the medium with them.
LEAST_SHARE = TCP_SHARE / (1 + 66 / 1514)
STATIONS = "abcd"
BOTH = ("mininet", "sim")

Goodputs = tuple[list[float], float]  # of each pair of stations, and of the medium


@pytest.fixture(scope="module")
def air() -> Iterator[tuple[Shaper, dict[str, int]]]:
    """A shaped medium, and a process in the network namespace of each station."""
    with namespaces(1 + len(STATIONS)) as (access_point, *pids):
        ip(access_point, "link add s1 type bridge", "link set s1 up")
        for number, (name, pid) in enumerate(zip(STATIONS, pids, strict=True)):
            ip(access_point, f"link add p{name} type veth peer name v0 netns {pid}", f"link set p{name} master s1 up")
            ip(pid, f"addr add {_address(number)}/24 dev v0", "link set v0 up")
        share_medium("air", [f"p{name}" for name in STATIONS], access_point)
        with Shaper(access_point) as shaper:
            shaper.install("air", RATE_BPS)
            yield shaper, dict(zip(STATIONS, pids, strict=True))


def _address(number: int) -> str:
    return f"10.79.0.{number + 1}"


class Flow:
    """Sends from one station to another as fast as it can, and counts what arrives."""

    def __init__(self, stations: dict[str, int], sender: str, receiver: str) -> None:
        address = _address(STATIONS.index(receiver)), 0
        listening = in_netns(stations[receiver], lambda: socket.create_server(address))
        here = listening.getsockname()
        self._out = in_netns(stations[sender], lambda: socket.create_connection(here, timeout=10))
        self._in, _ = listening.accept()
        listening.close()
        self.received = 0
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._send, self._receive)]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        try:
            while True:
                self._out.sendall(bytes(64 * 1024))
        except OSError:
            return

    def _receive(self) -> None:
        try:
            while size := len(self._in.recv(1 << 18)):
                self.received += size
        except ConnectionError:
            return

    def close(self) -> None:
        """End both ends."""
        self._out.shutdown(socket.SHUT_RDWR)
        self._in.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        self._out.close()
        self._in.close()


def goodputs(air: tuple[Shaper, dict[str, int]], *pairs: str) -> Goodputs:
    """(bits per second that arrive at each receiver, bits per second that pass the medium), flows side by side."""
    shaper, stations = air
    flows = [Flow(stations, *pair) for pair in pairs]
    for flow in flows:  # at once: whoever comes later finds the queue full, and TCP is fair only in the long run
        flow.start()
    time.sleep(SETTLE_S)
    started, before, sent = time.monotonic(), [flow.received for flow in flows], shaper.stats("air").sent_bytes
    time.sleep(SECONDS)
    seconds = time.monotonic() - started
    after, passed = [flow.received for flow in flows], shaper.stats("air").sent_bytes - sent
    for flow in flows:
        flow.close()
    time.sleep(SETTLE_S)
    return [(now - then) * 8 / seconds for now, then in zip(after, before, strict=True)], passed * 8 / seconds


@pytest.fixture(scope="module")
def known() -> dict[tuple[str, ...], Goodputs]:
    """What was measured so far."""
    return {}


@pytest.fixture
def measured(
    air: tuple[Shaper, dict[str, int]], known: dict[tuple[str, ...], Goodputs], request: pytest.FixtureRequest
) -> Callable[..., Goodputs]:
    """`goodputs` of pairs: what is known of them, but measured anew where a test is repeated."""

    def measure(*pairs: str) -> Goodputs:
        if pairs not in known or request.node.execution_count > 1:
            known[pairs] = goodputs(air, *pairs)
        return known[pairs]

    return measure


@pytest.mark.quiet
@pytest.mark.parametrize("pairs", [("ab",), ("ab", "ba"), ("ab", "cd"), ("ab", "ac", "da")])
def test_the_medium_carries_its_rate_in_sum_over_all_flows_and_directions(
    measured: Callable[..., Goodputs], pairs: tuple[str, ...]
) -> None:
    found, passed = measured(*pairs)
    tolerance = 0.1 if IN_GUEST else 0.05
    within = tolerance + QUEUED
    with judging_time():
        assert passed == pytest.approx(RATE_BPS, rel=tolerance)
        # Each bit from station to station takes the medium twice.
        assert (1 - within) * LEAST_SHARE * RATE_BPS < 2 * sum(found) < (1 + within) * TCP_SHARE * RATE_BPS


@pytest.mark.quiet
def test_two_stations_that_talk_at_once_share_it(measured: Callable[..., Goodputs]) -> None:
    (one, other), _ = measured("ab", "cd")
    (alone,), _ = measured("ab")
    with judging_time():
        assert min(one, other) > (one + other) / 4  # TCP's flows are not quite fair within seconds
        assert one + other == pytest.approx(alone, rel=0.1 + QUEUED)


def test_a_kernel_without_the_parts_is_one_sentence() -> None:
    with pytest.raises(EnvironmentLacks, match="shape: wifi needs the kernel's ifb.*--backend sim"):
        share_medium("name-that-is-too-long-for-linux", [])


def wifi(**medium: str) -> dict[str, Any]:
    star = topology()
    devices = {name: dict(one) for name, one in star["devices"].items()}
    for one in devices.values():
        del one["link"]
    return {"shape": "wifi", "source": star["source"], "devices": devices, "medium": medium}


def test_a_run_on_a_wifi_gives_the_references_bits(place: Place, tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, topology=wifi(rate="50 Mbit/s", delay="1 ms"), policy="round-robin")
    ended = place.done(experiment, "--backend", "mininet")
    links = rows(ended.folder, "links")
    assert {(row["device"], row["direction"]) for row in links} == {("medium", "up")}
    assert all(row["readback_bps"] == pytest.approx(row["requested_bps"], abs=8) for row in links)
    assert max(row["sent_bytes"] or 0 for row in links) > 1000


@pytest.mark.quiet
def test_a_token_on_a_wifi_takes_as_long_as_in_the_twin(place: Place) -> None:
    command = ["gpt2-star4", "--policy", "round-robin", "--tokens", "6", "--calibrate", "quick", "--accept-unfaithful"]
    command += ["--set", "topology=wifi4", "--set", "traces=[]", "--set", "delay=transport"]
    found = [place.testbed("replay", *command, "--out", place.out, "--json", "--backend", name) for name in BOTH]
    assert [ended.code for ended in found] == [0, 0], [ended.err for ended in found]
    measured, simulated = ([row["latency_s"] for row in rows(one.folder, "tokens")[1:]] for one in found)
    with judging_time():
        assert measured == pytest.approx(simulated, rel=0.1)


def test_a_killed_run_leaves_no_medium(place: Place, tmp_path: Path) -> None:
    before = interfaces() | {"ifb0", "ifb1"}  # the module's own
    experiment = write_experiment(tmp_path, topology=wifi(rate="50 Mbit/s"), tokens=300)
    with place.started(experiment, "--backend", "mininet", *UNJUDGED) as going:
        going.until_token(2)
        members = going.members()
        going.process.kill()
        assert_they_end(members, 10.0)
    assert place.testbed("clean").code == 0
    assert place.left_behind() == [] and interfaces() <= before


def test_the_local_backend_and_open_vswitch_refuse_a_wifi(place: Place, tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, topology=wifi(rate="50 Mbit/s"))
    ended = place.replay(experiment, "--backend", "local", "--share-host")
    assert ended.code == 2 and "has the shape wifi" in ended.sentence
    ended = place.replay(experiment, "--set", "switch=openvswitch", "--share-host")
    assert ended.code == 2 and "only a Linux bridge can be a wifi's access point" in ended.sentence
