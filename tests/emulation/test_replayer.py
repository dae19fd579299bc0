"""Link rates replayed by a process of its own, on veth links in network namespaces of the test's own."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from host_pace import judging_time
from namespaces import ip, namespaces
from running import ROOT, Place, events, rows, topology, write_experiment

from testbed.clock import EmulatedClock
from testbed.emulation.replayer import Replayed, ReplayedLink, Replayer
from testbed.emulation.shaping import Shaper, ShapingFailed
from testbed.emulation.spawn import forkserver
from testbed.errors import RunFailed
from testbed.topologies.links import DOWN, UP
from testbed.traces.series import Series
from testbed.wire import OUTAGE_BPS

LINKS, FEW = 50, 8
CHANGES_PER_S = 10  # of each direction of each link
PERIOD_S = 2.0
MEASURED_S = 4.0
BUSY_LATE_S, IDLE_LATE_S = 15e-3, 5e-3
CORE_SHARE = 0.10
BEGIN_BPS = 20e6


class Cables:
    """Veth links, both ends shaped: the one called v0 in a namespace of its own, the other, d0 …, in a common one."""

    def __init__(self, pids: Sequence[int]) -> None:
        self.middle, *self.ends = pids
        count = len(self.ends)
        adds = [f"link add d{n} type veth peer name v0 netns {pid}" for n, pid in enumerate(self.ends)]
        ip(self.middle, *adds, *(f"link set d{n} up" for n in range(count)))
        for pid in self.ends:
            ip(pid, "link set v0 up")
        with Shaper(self.middle) as middle:
            for n in range(count):
                middle.install(f"d{n}", BEGIN_BPS)
        for pid in self.ends:
            with Shaper(pid) as end:
                end.install("v0", BEGIN_BPS)

    def link(self, number: int, direction: str, series: Series, otherwise_bps: float = BEGIN_BPS) -> ReplayedLink:
        """One direction of a link, to be replayed."""
        place = (self.ends[number], "v0") if direction == UP else (self.middle, f"d{number}")
        return ReplayedLink((f"link{number}", direction), *place, series, otherwise_bps)

    def rate_bps(self, link: ReplayedLink) -> float:
        """What `tc` says of it."""
        show = ["nsenter", "-t", str(link.netns_pid), "-n", "tc", "-j", "qdisc", "show", "dev", link.interface, "root"]
        (qdisc,) = json.loads(subprocess.run(show, capture_output=True, check=True).stdout)
        return float(qdisc["options"]["rate"]) * 8  # tc gives byte/s


@pytest.fixture(scope="module")
def cables() -> Iterator[Cables]:
    with namespaces(FEW + 1) as pids:
        yield Cables(pids)


@pytest.fixture(scope="module")
def many_cables() -> Iterator[Cables]:
    with namespaces(LINKS + 1) as pids:
        yield Cables(pids)


@pytest.fixture
def clock() -> EmulatedClock:
    return EmulatedClock()


def replay(links: Sequence[ReplayedLink], clock: EmulatedClock) -> Replayer:
    return Replayer(forkserver(), links, clock)


def gather(replayer: Replayer, seconds: float) -> list[Replayed]:
    """The reports of a while, taken now and then as a controller does, without ending the replay."""
    found: list[Replayed] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.05)
        found += replayer.reports()
    return found


def gather_all(replayer: Replayer, count: int) -> list[Replayed]:
    """The first so many reports, and what has come with them; then the replay ends."""
    found: list[Replayed] = []
    deadline = time.monotonic() + 20
    while len(found) < count and time.monotonic() < deadline:
        time.sleep(0.05)
        found += replayer.reports()
    return found + replayer.end()


def ramp(*steps: tuple[float, float | None]) -> Series:
    return Series(steps)


class Busy:
    """Ordinary processes that take every core."""

    def __enter__(self) -> None:
        cores = os.cpu_count() or 1
        self.processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


class Idle(Busy):
    def __enter__(self) -> None:
        self.processes = []


def cpu_s(pid: int | None) -> float:
    """CPU time of a process, from the kernel's own count."""
    return float(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])) / 1e9


def many(cables: Cables) -> list[ReplayedLink]:
    """Both directions of all links, each at moments and rates of its own, over and over."""
    draw = random.Random(4)
    each = round(CHANGES_PER_S * PERIOD_S)

    def series() -> Series:
        moments = sorted({round(draw.uniform(0, PERIOD_S), 6) for _ in range(each)})
        return Series(tuple((moment, 8.0 * draw.randint(60_000, 12_500_000)) for moment in moments), PERIOD_S)

    return [cables.link(number, direction, series()) for number in range(LINKS) for direction in (UP, DOWN)]


@pytest.mark.quiet
@pytest.mark.parametrize(("load", "bound_s"), [(Idle, IDLE_LATE_S), (Busy, BUSY_LATE_S)], ids=["idle", "busy"])
def test_fifty_links_change_in_time_ten_times_a_second_in_both_directions(
    load: type[Busy], bound_s: float, many_cables: Cables, clock: EmulatedClock
) -> None:
    links = many(many_cables)
    replayer = replay(links, clock)
    with load():
        clock.start()
        before = cpu_s(replayer.process.pid)
        found = gather(replayer, MEASURED_S)
        share = (cpu_s(replayer.process.pid) - before) / MEASURED_S
        found += replayer.end()
    assert all(change.applied_bps == change.requested_bps == change.readback_bps for change in found)
    last = {change.hop: change.requested_bps for change in found}
    assert all(many_cables.rate_bps(link) == last[link.hop] for link in links[::9])
    late = sorted(change.late_s for change in found)
    p99 = late[int(0.99 * len(late))]
    assert late[0] >= 0, "a change came before it was due"
    print(f"p99 {1e3 * p99:.2f} ms, most {1e3 * late[-1]:.2f} ms, {100 * share:.1f} % of a core")
    with judging_time():
        assert len(found) > 0.95 * 2 * LINKS * CHANGES_PER_S * MEASURED_S
        assert p99 < bound_s and share < CORE_SHARE, replayer.priority


def test_changes_are_made_in_the_traces_order_and_lap_after_lap(cables: Cables, clock: EmulatedClock) -> None:
    looping = cables.link(0, UP, Series(((0.0, 1e6), (0.1, 2e6)), 0.2))
    once = cables.link(0, DOWN, ramp((0.15, 3e6), (0.25, 0.0), (0.45, None)), 7e6)
    replayer = replay([looping, once], clock)
    clock.start()
    found = gather_all(replayer, 9)
    begun_s = found[0].due_s - 0.1
    seen = [(round(change.due_s - begun_s, 6), change.hop[1], change.requested_bps) for change in found]
    assert seen[:9] == [
        (0.1, UP, 2e6), (0.15, DOWN, 3e6), (0.2, UP, 1e6), (0.25, DOWN, 0.0), (0.3, UP, 2e6), (0.4, UP, 1e6),
        (0.45, DOWN, 7e6), (0.5, UP, 2e6), (0.6, UP, 1e6),
    ]  # fmt: skip
    outage = found[3]
    assert outage.applied_bps == outage.readback_bps == OUTAGE_BPS
    assert [change.applied_s for change in found] == sorted(change.applied_s for change in found)


@pytest.mark.quiet
def test_nothing_changes_before_the_clock_starts_nor_while_it_is_paused(cables: Cables, clock: EmulatedClock) -> None:
    replayer = replay([cables.link(1, UP, ramp((0.1, 1e6), (0.3, 2e6), (0.5, 3e6)))], clock)
    assert gather(replayer, 0.3) == []
    clock.start()
    first = gather(replayer, 0.2)
    clock.pause()
    with judging_time():
        assert [change.requested_bps for change in first] == [1e6]
    assert gather(replayer, 0.5) == []
    resumed_s = time.monotonic()
    clock.resume()
    second = gather_all(replayer, 2)
    assert [change.requested_bps for change in second] == [2e6, 3e6]
    assert all(change.due_s > resumed_s for change in second)
    assert second[1].due_s - second[0].due_s == pytest.approx(0.2, abs=1e-6)
    with judging_time():
        assert all(change.late_s < 0.05 for change in second)


@pytest.mark.quiet
def test_a_run_that_goes_on_gets_the_last_rate_before_and_the_changes_after(
    cables: Cables, clock: EmulatedClock
) -> None:
    link = cables.link(1, UP, ramp((1.0, 1e6), (2.0, 2e6), (3.2, 3e6)))
    replayer = replay([link], clock)
    clock.go_on_from(7.0, 3.0)
    clock.start()
    time.sleep(0.1)
    before_bps = cables.rate_bps(link)
    found = gather_all(replayer, 1)
    assert [change.requested_bps for change in found] == [3e6]
    with judging_time():
        assert before_bps == 2e6
        assert found[0].late_s < 0.05


def test_a_dilated_clock_makes_times_longer_and_rates_smaller_on_the_host_only(cables: Cables) -> None:
    clock = EmulatedClock(4.0)
    link = cables.link(2, UP, ramp((0.05, 8e6), (0.15, 16e6)))
    replayer = replay([link], clock)
    clock.start()
    found = gather_all(replayer, 2)
    assert [(change.requested_bps, change.readback_bps) for change in found] == [(8e6, 8e6), (16e6, 16e6)]
    assert found[1].due_s - found[0].due_s == pytest.approx(0.4, abs=1e-6)
    assert clock.at(found[0].due_s) == pytest.approx(0.05, abs=1e-6)
    assert cables.rate_bps(link) == 4e6


@pytest.mark.quiet
def test_reports_wait_for_a_controller_that_is_long_busy(cables: Cables, clock: EmulatedClock) -> None:
    links = [cables.link(n, UP, Series(((0.0, 1e6), (0.002, 2e6)), 0.004)) for n in range(8)]
    replayer = replay(links, clock)
    clock.start()
    time.sleep(4)  # some 800 KB of reports, several times what a socket holds
    found = replayer.end()
    assert [change.due_s for change in found] == sorted(change.due_s for change in found)
    assert replayer.facts()["changes"] == len(found) and 0 < replayer.facts()["core_share"] < 1
    with judging_time():
        assert len(found) > 8 * 500 * 3.5


def test_a_queue_that_is_gone_ends_the_replay_with_the_kernels_answer(cables: Cables, clock: EmulatedClock) -> None:
    replayer = replay([cables.link(3, UP, ramp((0.2, 5e6)))], clock)
    inside = ["nsenter", "-t", str(cables.ends[3]), "-n"]
    subprocess.run([*inside, "tc", "qdisc", "del", "dev", "v0", "root"], check=True)
    clock.start()
    with pytest.raises(ShapingFailed, match="cannot change the rate of v0 in the network namespace of pid .* kernel"):
        gather(replayer, 20)
    replayer.stop()
    with pytest.raises(ShapingFailed, match="v0"):
        replay([cables.link(3, UP, ramp((0.2, 1e6)))], EmulatedClock())


def test_a_replayer_that_is_killed_ends_the_run(cables: Cables, clock: EmulatedClock) -> None:
    replayer = replay([cables.link(4, UP, ramp((5.0, 1e6)))], clock)
    clock.start()
    assert replayer.process.pid is not None
    os.kill(replayer.process.pid, signal.SIGKILL)
    with pytest.raises(RunFailed, match="replayer .* ended with code -9 in the middle of the run"):
        gather(replayer, 20)
    clock.pause()  # whoever turns the clock need not know
    replayer.stop()


def test_without_the_right_to_more_the_priority_is_normal_and_it_says_so() -> None:
    program = "from testbed.emulation.replayer import raise_priority; print(raise_priority())"
    plain = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
    done = subprocess.run(
        ["prlimit", "--rtprio=0", "--nice=0", *plain, sys.executable, "-c", program],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("normal (higher is not permitted: ")


@pytest.mark.quiet
def test_a_run_on_the_time_clock_has_its_rates_replayed_and_sees_them(place: Place, tmp_path: Path) -> None:
    lines = [f"{0.05 * n:.2f},link/b,up,{(80, 40)[n % 2]} Mbit/s" for n in range(400)]
    lines[7:7] = ["0.3,link/c,delay,1 ms", "0.3,device/c,compute,5 GFLOP/s"]
    (tmp_path / "fast.csv").write_text("\n".join(["time,target,quantity,value", *lines, ""]))
    experiment = write_experiment(
        tmp_path, topology=topology(), tokens=60, policy="round-robin", traces=[str(tmp_path / "fast.csv")],
        trace_clock="time",
    )  # fmt: skip
    ended = place.done(experiment, "--backend", "mininet")
    made = [row for row in rows(ended.folder, "links") if row["device"] == "b" and row["direction"] == "up"]
    assert all(row["readback_bps"] == row["requested_bps"] for row in made)
    changes = [row for row in made if row["sent_bytes"] is None][1:]  # the first is the one before token 0
    assert [row["requested_bps"] for row in changes] == [(40e6, 80e6)[n % 2] for n in range(len(changes))]
    replayed = [row for row in events(ended.folder, "trace_applied") if row["target"] == "link/b"]
    assert [(row["t_s"], row["value"]) for row in replayed] == [(row["t_s"], row["requested_bps"]) for row in changes]
    kinds = {(row["target"], row["quantity"]) for row in events(ended.folder, "trace_applied")}
    assert kinds == {("link/b", "up"), ("link/c", "up_delay"), ("link/c", "down_delay"), ("device/c", "compute")}
    facts: dict[str, Any] = json.loads((ended.folder / "manifest.json").read_text())["facts"]["replay"]
    assert facts["changes"] == len(changes) and facts["priority"].startswith("real-time")
    assert not [reason for reason in ended.summary["verdict"]["reasons"] if "the kernel says" in reason]
    with judging_time():
        assert len(changes) > 10 and sorted(row["lag_s"] for row in changes)[len(changes) // 2] < 0.01
