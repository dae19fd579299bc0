"""A link's rate: one token-bucket queue (TBF) per direction, which is changed in place.

It knows network interfaces and nothing of devices, topologies or traces. TBF splits GSO packets itself. Changing in
place matters because a rebuilt queue loses what waits in it (docs/design.md, "Links and the capsule").
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from testbed.emulation import netlink
from testbed.emulation.host import in_user_mode_linux
from testbed.emulation.netlink import NetlinkError, Qdisc, RouteSocket, TbfRequest
from testbed.errors import ConfigError, EnvironmentLacks
from testbed.units import format_rate
from testbed.wire import FRAME_BYTES, MTU_BYTES, OUTAGE_BPS
from testbed.worker.libc import enter_network

MAX_RATE_BPS = 8 * 0xFFFFFFFF  # TCA_TBF_PARMS counts byte/s in 32 bits
LACKS_NETEM = (
    "{} needs the kernel's netem, which is missing here: load sch_netem, run it in the sandbox (`testbed sandbox -- "
    "testbed replay …`) or in a VM, or use delay: transport without loss and jitter"
)
MIN_BURST_BYTES = 1600  # one full Ethernet frame with room for tags
BURST_S = 0.25e-3  # of the rate: small, because an idle link passes a full bucket at once (docs/adr/0007)
LATE_TIMER_S = 0.1e-3  # at least so much of the rate beside one full frame, or a timer that is late loses rate
FAST_BURST_S, FAST_FROM_BPS = 1e-3, 150e6  # of the rate above 150 Mbit/s: a late timer costs fast links more
# The timers of User-Mode Linux depend on the host's and are 0.1 ms late (median), and rate that the bucket cannot hold
# meanwhile is lost. On busy cores TCP reaches there, at 20/50/100 Mbit/s and as a share of 0.956 × rate, 0.95/0.91/0.75
# with the two values above and 0.96/0.98/0.97 with these.
LATE_TIMERS_MIN_BURST_BYTES = 3200
LATE_TIMERS_BURST_S = 1e-3
# A queue that overflows makes TCP send again, which no one asked for. So a prefill's messages to all peers must fit.
MIN_QUEUE_BYTES = 1_000_000
QUEUE_S = 0.1  # the queue holds 100 ms of rate
KICK_ETHERTYPE = 0x88B5  # IEEE 802 local experimental: no protocol handler takes the frame
KICK_DESTINATION = bytes.fromhex("0180c200000e")  # link-local multicast: no bridge forwards it
KICK_BYTES = 60  # the shortest Ethernet frame, without its checksum
ROOT_HANDLE, NETEM_HANDLE = 0x10000, 0x20000  # 1: and 2: in tc's writing

_DOCTOR = "testbed doctor shows what this machine can do"
_SIOCGIFINDEX, _SIOCGIFHWADDR = 0x8933, 0x8927  # linux/sockios.h
_KICK_HARMLESS = {errno.ENOBUFS, errno.ENETDOWN, errno.ENXIO}  # the queue is full, and so awake; or the link is down

Result = TypeVar("Result")


class ShapingFailed(EnvironmentLacks):
    """The kernel refused to build, change or show a queue."""


@dataclass(frozen=True)
class Netem:
    """What netem adds below the rate: a one-way delay, its jitter and a share of lost packets."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0


@dataclass(frozen=True)
class Applied:
    """One change: what was asked, what was sent to the kernel, what the kernel says now; monotonic times around it."""

    requested_bps: float
    applied_bps: int
    readback_bps: int
    started_s: float
    finished_s: float


@dataclass
class _Link:
    ifindex: int
    request: TbfRequest
    query: bytearray
    kick: bytes
    applied_bps: int
    largest_bytes: int  # of a segment that may be queued: what the bucket held when it came
    netem: Netem | None = None
    most_bps: float = 0.0  # netem must hold what this rate needs, even if another shaper sets it


class Shaper:
    """The queues of one network namespace, through sockets that are opened inside it once.

    `netns_pid` is a process in that namespace (a Mininet host's shell); None means the caller's own. One thread at a
    time may use it. Raises ShapingFailed where the namespace or its sockets cannot be opened.
    """

    def __init__(self, netns_pid: int | None = None) -> None:
        self._where = "this network namespace" if netns_pid is None else f"the network namespace of pid {netns_pid}"
        try:
            self._route, self._packet = in_netns(netns_pid, _open_sockets)
        except OSError as error:
            raise ShapingFailed(
                f"cannot open a netlink and a packet socket in {self._where}: {error.strerror}; "
                "run as root or inside a capsule (testbed doctor tells whether one can be made)"
            ) from error
        self._links: dict[str, _Link] = {}

    def install(self, ifname: str, rate_bps: float, *, netem: Netem | None = None, most_bps: float = 0.0) -> Applied:
        """Put a TBF of this rate at the root of `ifname`'s egress, in place of what is there, and netem below it.

        `most_bps` is the highest rate that another shaper, which adopts the queue, will give it.
        """
        sent = _sendable(ifname, rate_bps)
        started = time.monotonic()
        ifindex, address = self._identify(ifname)
        with contextlib.suppress(NetlinkError):  # ENOENT: it had only its default queue
            self._route.request(
                netlink.qdisc_request(netlink.RTM_DELQDISC, netlink.NLM_F_ACK, ifindex, 0, netlink.TC_H_ROOT)
            )
        create = TbfRequest(netlink.NLM_F_CREATE | netlink.NLM_F_EXCL, ifindex, ROOT_HANDLE)
        self._ask(create.patch(*tbf_parameters(sent)), "shape", ifname, sent)
        link = self._links[ifname] = _link(ifindex, address, sent)
        link.most_bps = most_bps
        if netem is not None:
            self._put_netem(ifname, link, netem, netlink.NLM_F_CREATE | netlink.NLM_F_EXCL)
        return Applied(rate_bps, sent, self._rate_now(ifname, link), started, time.monotonic())

    def adopt(self, ifname: str) -> None:
        """Take over `change` of the queue that another shaper installed. Netem below it stays with the other.

        From then on the other shaper must leave the rate alone: each sends only what differs from what it sent last.
        """
        link = _link(*self._identify(ifname), 0)
        link.applied_bps = self._rate_now(ifname, link)
        link.largest_bytes = tbf_parameters(link.applied_bps)[2]
        if not link.applied_bps:
            raise ShapingFailed(f"cannot take over {ifname} in {self._where}: it has no token-bucket queue")
        self._links[ifname] = link

    def change(self, ifname: str, rate_bps: float) -> Applied:
        """Change the rate in place; the queue, its handle and its counters stay. A rate of 0 is an outage.

        Nothing is sent when the link already has this rate. `started_s` and `finished_s` enclose the request and the
        kernel's answer, which shows the queue after the change: the read-back. The kernel refills the bucket at each
        change, so up to one burst passes at once. After a rise one small frame is sent, because the queue's watchdog
        still sleeps for the old rate; after a fall it wakes early enough by itself.

        Several frames of TCP that fitted into the bucket were queued as one segment. In a smaller bucket it would wait
        for ever, and all others behind it, so the bucket stays as large until a change finds the queue empty.
        """
        link = self._installed(ifname)
        sent = _sendable(ifname, rate_bps)
        if sent == link.applied_bps:
            now = time.monotonic()
            return Applied(rate_bps, sent, self._rate_now(ifname, link), now, now)
        rate_Bps, limit, burst = tbf_parameters(sent)
        started = time.monotonic()
        answer = self._ask(link.request.patch(rate_Bps, limit, burst), "change the rate of", ifname, sent)
        queued = burst < link.largest_bytes and netlink.parse_qdisc(answer).backlog_packets > 0
        if queued and sent > OUTAGE_BPS:
            burst = link.largest_bytes
            answer = self._ask(link.request.patch(rate_Bps, limit, burst), "change the rate of", ifname, sent)
        finished = time.monotonic()
        rises, link.applied_bps = sent > link.applied_bps, sent
        link.largest_bytes = link.largest_bytes if queued else burst
        if rises:
            self._kick(ifname, link)
        if link.netem is not None:
            self._put_netem(ifname, link, link.netem, 0)  # its packet limit follows the rate
        return Applied(rate_bps, sent, netlink.tbf_rate_Bps(answer) * 8, started, finished)

    def change_netem(self, ifname: str, netem: Netem) -> None:
        """Change delay and loss in place; only for links that were installed with netem."""
        link = self._installed(ifname)
        if link.netem is None:
            raise ShapingFailed(f"cannot change the delay of {ifname} in {self._where}: it was shaped without netem")
        if netem != link.netem:
            self._put_netem(ifname, link, netem, 0)

    def stats(self, ifname: str) -> Qdisc:
        """The root queue and its counters, from the kernel."""
        return netlink.parse_qdisc(self._ask(self._installed(ifname).query, "read the queue of", ifname))

    def close(self) -> None:
        """Close the sockets; the queues stay."""
        self._route.close()
        self._packet.close()

    def __enter__(self) -> Shaper:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _installed(self, ifname: str) -> _Link:
        link = self._links.get(ifname)
        if link is None:
            known = ", ".join(self._links) or "none"
            raise ShapingFailed(f"{ifname} in {self._where} has no queue of this shaper (those that have: {known})")
        return link

    def _identify(self, ifname: str) -> tuple[int, bytes]:
        """(interface index, hardware address) as this namespace sees them."""
        name = struct.pack("16s24x", os.fsencode(ifname)[:15])
        try:
            index = fcntl.ioctl(self._packet, _SIOCGIFINDEX, name)
            address = fcntl.ioctl(self._packet, _SIOCGIFHWADDR, name)
        except OSError as error:
            raise ShapingFailed(
                f"cannot shape {ifname} in {self._where}: {error.strerror} (is the interface named {ifname!r} there?)"
            ) from error
        return struct.unpack_from("=i", index, 16)[0], address[18:24]

    def _put_netem(self, ifname: str, link: _Link, netem: Netem, flags: int) -> None:
        message = netlink.netem_request(
            flags,
            link.ifindex,
            NETEM_HANDLE,
            ROOT_HANDLE | 1,
            delay_s=netem.delay_s,
            jitter_s=netem.jitter_s,
            loss=netem.loss,
            limit=netem_limit_packets(max(link.applied_bps, link.most_bps), netem.delay_s),
        )
        remedy = "use delay: transport where netem is missing"
        self._ask(message, "put netem below the queue of", ifname, remedy=remedy)
        link.netem = netem

    def _ask(
        self, message: bytearray, verb: str, ifname: str, rate_bps: int | None = None, *, remedy: str = _DOCTOR
    ) -> memoryview:
        try:
            return self._route.request(message)
        except OSError as error:
            to_rate = "" if rate_bps is None else f" to {format_rate(rate_bps)}"
            raise ShapingFailed(
                f"cannot {verb} {ifname} in {self._where}{to_rate}: the kernel answers {error.strerror!r}; {remedy}"
            ) from error

    def _rate_now(self, ifname: str, link: _Link) -> int:
        return netlink.tbf_rate_Bps(self._ask(link.query, "read the queue of", ifname)) * 8

    def _kick(self, ifname: str, link: _Link) -> None:
        try:
            self._packet.sendto(link.kick, (ifname, KICK_ETHERTYPE))
        except OSError as error:
            if error.errno not in _KICK_HARMLESS:
                raise ShapingFailed(
                    f"cannot send a frame out of {ifname} in {self._where} to wake its queue: {error.strerror}; "
                    "the link may stall after a rise of its rate"
                ) from error


def _link(ifindex: int, address: bytes, applied_bps: int) -> _Link:
    query = netlink.qdisc_request(netlink.RTM_GETQDISC, netlink.NLM_F_ECHO, ifindex, ROOT_HANDLE, netlink.TC_H_ROOT)
    change = TbfRequest(netlink.NLM_F_ECHO, ifindex, ROOT_HANDLE)
    return _Link(ifindex, change, query, kick_frame(address), applied_bps, tbf_parameters(applied_bps)[2])


def tbf_parameters(rate_bps: int) -> tuple[int, int, int]:
    """(byte/s, queue limit in bytes, burst in bytes) of a link of this rate."""
    least, seconds = bucket()
    one_frame = FRAME_BYTES + round(rate_bps * LATE_TIMER_S / 8)
    fast = round((rate_bps - FAST_FROM_BPS) * FAST_BURST_S / 8)
    burst = max(least, one_frame, round(rate_bps * seconds / 8), fast)
    limit = max(MIN_QUEUE_BYTES, round(rate_bps * QUEUE_S / 8))
    return rate_bps // 8, limit, burst


def burst_bits(rate_bps: float) -> float:
    """Bits that an idle link of this rate passes at once."""
    return 8.0 * tbf_parameters(max(int(OUTAGE_BPS), round(rate_bps)))[2]


@functools.cache
def bucket() -> tuple[int, float]:
    """(least bytes, seconds of rate) that a token bucket holds on this kernel."""
    if in_user_mode_linux():
        return LATE_TIMERS_MIN_BURST_BYTES, LATE_TIMERS_BURST_S
    return MIN_BURST_BYTES, BURST_S


def tbf_settings(rate_bps: float) -> dict[str, float]:
    """A queue's settings by name, so that a dry run can show them."""
    bytes_per_s, limit, burst = tbf_parameters(max(int(OUTAGE_BPS), round(rate_bps)))
    return {"rate_bps": bytes_per_s * 8, "limit_bytes": limit, "burst_bytes": burst}


def netem_limit_packets(rate_bps: float, delay_s: float) -> int:
    """Packets that netem must be able to hold: 1.5 times what is in flight, and the queue of the rate before it."""
    queue_bytes = max(MIN_QUEUE_BYTES, rate_bps * QUEUE_S / 8)
    return max(1000, round((1.5 * rate_bps / 8 * delay_s + queue_bytes) / MTU_BYTES))


def kick_frame(source: bytes) -> bytes:
    """The frame that wakes a queue. Nobody takes it, and no bridge forwards it."""
    return (KICK_DESTINATION + source + struct.pack("!H", KICK_ETHERTYPE)).ljust(KICK_BYTES, b"\0")


def in_netns(pid: int | None, action: Callable[[], Result]) -> Result:
    """Run `action` inside the network namespace of `pid` (None: here), in a thread that ends with it.

    Sockets opened there keep belonging to that namespace; the caller never leaves its own. Raises OSError.
    """
    if pid is None:
        return action()
    results: list[Result] = []
    failures: list[BaseException] = []

    def enter_and_act() -> None:
        try:
            enter_network(pid)
            results.append(action())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=enter_and_act, name=f"netns-{pid}")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def _open_sockets() -> tuple[RouteSocket, socket.socket]:
    packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)  # 0: receives nothing
    try:
        return RouteSocket(), packet
    except OSError:
        packet.close()
        raise


def _sendable(ifname: str, rate_bps: float) -> int:
    """The nearest rate that the kernel can hold: whole bytes per second, never 0."""
    if not 0 <= rate_bps <= MAX_RATE_BPS:
        raise ConfigError(
            f"the rate of {ifname} is {rate_bps:g} bit/s: it must be between 0 and {format_rate(MAX_RATE_BPS)}"
        )
    return max(round(rate_bps / 8) * 8, int(OUTAGE_BPS))
