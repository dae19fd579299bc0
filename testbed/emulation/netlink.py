"""Queueing-discipline requests to the kernel over rtnetlink.

One socket, a few message layouts (TBF, netem, their statistics) and nothing else; `shaping` knows what a rate means
for an emulated link. pyroute2 would do the same at a hundred times the cost per change. Layouts: linux/rtnetlink.h,
linux/pkt_sched.h, linux/gen_stats.h; see also rtnetlink(7) and tc-tbf(8).
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

NLM_F_REQUEST, NLM_F_ACK, NLM_F_ECHO = 0x1, 0x4, 0x8  # ECHO: the kernel sends the object back to us
NLM_F_EXCL, NLM_F_CREATE = 0x200, 0x400
NLMSG_ERROR = 2
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
NLMSGERR_ATTR_MSG = 1
SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK = 270, 10, 11

RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
TC_H_ROOT = 0xFFFFFFFF
TCA_KIND, TCA_OPTIONS, TCA_STATS2 = 1, 2, 7
TCA_STATS_BASIC, TCA_STATS_QUEUE = 1, 3
TCA_TBF_PARMS, TCA_TBF_BURST = 1, 6
TCA_NETEM_LATENCY64 = 10
NLA_F_NESTED, NLA_TYPE_MASK = 0x8000, 0x3FFF
TC_LINKLAYER_ETHERNET = 1

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_TCMSG = struct.Struct("=BBHiIII")  # tcmsg: family, pads, ifindex, handle, parent, info
_ATTR = struct.Struct("=HH")
_RATESPEC = struct.Struct("=BBHhHI")  # tc_ratespec: cell_log, linklayer, overhead, cell_align, mpu, byte/s
_TBF_TAIL = struct.Struct("=III")  # tc_tbf_qopt after its two rate specs: limit, buffer (ticks), mtu (ticks)
_TBF_PARMS_BYTES = 2 * _RATESPEC.size + _TBF_TAIL.size
_NETEM_QOPT = struct.Struct("=IIIIII")  # latency, limit, loss, gap, duplicate, jitter
_U32_MAX = 0xFFFFFFFF
ANSWER_TIMEOUT_S = 10  # the kernel answers within the call; this only keeps a bug from hanging


class NetlinkError(OSError):
    """The kernel refused a request; `strerror` holds its answer."""


@dataclass(frozen=True)
class Qdisc:
    """What RTM_GETQDISC says of one queue; `limit` in bytes and `rate_Bps` in byte/s are TBF's."""

    ifindex: int
    handle: int
    parent: int
    kind: str
    rate_Bps: int
    limit: int
    sent_bytes: int
    sent_packets: int
    dropped: int
    backlog_bytes: int
    backlog_packets: int

    @property
    def rate_bps(self) -> int:
        """TBF's rate in bit/s."""
        return self.rate_Bps * 8


@cache
def ticks_per_second() -> float:
    """Scheduler ticks per second, from /proc/net/psched (fields: ticks->us numerator, denominator, clock Hz)."""
    t2us, us2t, clock_hz, _ = (int(field, 16) for field in Path("/proc/net/psched").read_text().split())
    return t2us / us2t * (clock_hz / 1e6) * 1e6


def to_ticks(seconds: float) -> int:
    """A time span in scheduler ticks, at most what the field can hold (275 s with 64 ns ticks)."""
    return min(round(seconds * ticks_per_second()), _U32_MAX)


def attribute(kind: int, payload: bytes) -> bytes:
    """One netlink attribute, padded to four bytes."""
    length = _ATTR.size + len(payload)
    return _ATTR.pack(length, kind) + payload + bytes(-length % 4)


def attributes(data: bytes | memoryview) -> Iterator[tuple[int, memoryview]]:
    """(kind, payload) of each attribute in `data`."""
    view, offset = memoryview(data), 0
    while offset + _ATTR.size <= len(view):
        length, kind = _ATTR.unpack_from(view, offset)
        if length < _ATTR.size:
            return
        yield kind & NLA_TYPE_MASK, view[offset + _ATTR.size : offset + length]
        offset += length + -length % 4


def qdisc_request(message: int, flags: int, ifindex: int, handle: int, parent: int, body: bytes = b"") -> bytearray:
    """A whole qdisc message with sequence number 0, which `RouteSocket.request` fills in."""
    length = _HEADER.size + _TCMSG.size + len(body)
    head = _HEADER.pack(length, message, flags | NLM_F_REQUEST, 0, 0)
    return bytearray(head + _TCMSG.pack(socket.AF_UNSPEC, 0, 0, ifindex, handle, parent, 0) + body)


class TbfRequest:
    """A TBF qdisc message that is packed once; `patch` rewrites rate, limit and burst in place.

    With NLM_F_ECHO in `flags` the kernel answers with the queue as it then is, else with an acknowledgement.
    """

    def __init__(self, flags: int, ifindex: int, handle: int) -> None:
        options = attribute(TCA_TBF_PARMS, bytes(_TBF_PARMS_BYTES)) + attribute(TCA_TBF_BURST, bytes(4))
        kind = attribute(TCA_KIND, b"tbf\0")
        body = kind + attribute(TCA_OPTIONS | NLA_F_NESTED, options)
        flags |= 0 if flags & NLM_F_ECHO else NLM_F_ACK
        self.message = qdisc_request(RTM_NEWQDISC, flags, ifindex, handle, TC_H_ROOT, body)
        self._parms = _HEADER.size + _TCMSG.size + len(kind) + 2 * _ATTR.size
        self._burst = self._parms + _TBF_PARMS_BYTES + _ATTR.size

    def patch(self, rate_Bps: int, limit_bytes: int, burst_bytes: int) -> bytearray:
        """The message for this rate.

        The burst is given in bytes as well as in ticks. In ticks alone the kernel caps it at 4.3 s of rate, and below
        3 kbit/s a full frame would no longer pass.
        """
        message, at = self.message, self._parms
        _RATESPEC.pack_into(message, at, 0, TC_LINKLAYER_ETHERNET, 0, 0, 0, rate_Bps)
        ticks = to_ticks(burst_bytes / rate_Bps)
        _TBF_TAIL.pack_into(message, at + 2 * _RATESPEC.size, limit_bytes, ticks, 0)
        struct.pack_into("=I", message, self._burst, burst_bytes)
        return message


def netem_request(
    flags: int, ifindex: int, handle: int, parent: int, *, delay_s: float, jitter_s: float, loss: float, limit: int
) -> bytearray:
    """A netem qdisc message; `loss` is a share of one, `limit` counts packets."""
    qopt = _NETEM_QOPT.pack(to_ticks(delay_s), limit, round(loss * _U32_MAX), 0, 0, to_ticks(jitter_s))
    qopt += attribute(TCA_NETEM_LATENCY64, struct.pack("=q", round(delay_s * 1e9)))
    body = attribute(TCA_KIND, b"netem\0") + attribute(TCA_OPTIONS, qopt)
    return qdisc_request(RTM_NEWQDISC, flags | NLM_F_ACK, ifindex, handle, parent, body)


def parse_qdisc(message: bytes | memoryview) -> Qdisc:
    """A Qdisc from an RTM_NEWQDISC message (with its header)."""
    view = memoryview(message)
    _, _, _, ifindex, handle, parent, _ = _TCMSG.unpack_from(view, _HEADER.size)
    kind, rate_Bps, limit = "", 0, 0
    sent_bytes = sent_packets = backlog_packets = backlog_bytes = dropped = 0
    for name, payload in attributes(view[_HEADER.size + _TCMSG.size :]):
        if name == TCA_KIND:
            kind = bytes(payload).rstrip(b"\0").decode()
        elif name == TCA_OPTIONS and kind == "tbf":
            parms = next((inner for option, inner in attributes(payload) if option == TCA_TBF_PARMS), None)
            if parms is not None:
                rate_Bps = _RATESPEC.unpack_from(parms)[5]
                limit = _TBF_TAIL.unpack_from(parms, 2 * _RATESPEC.size)[0]
        elif name == TCA_STATS2:
            for statistic, inner in attributes(payload):
                if statistic == TCA_STATS_BASIC:
                    sent_bytes, sent_packets = struct.unpack_from("=QI", inner)
                elif statistic == TCA_STATS_QUEUE:
                    backlog_packets, backlog_bytes, dropped = struct.unpack_from("=III", inner)
    return Qdisc(
        ifindex, handle, parent, kind, rate_Bps, limit, sent_bytes, sent_packets, dropped, backlog_bytes,
        backlog_packets,
    )  # fmt: skip


def tbf_rate_Bps(message: bytes | memoryview) -> int:
    """The rate alone from an RTM_NEWQDISC message, 0 if it is not of a TBF; `parse_qdisc` reads everything."""
    view = memoryview(message)[_HEADER.size + _TCMSG.size :]
    for name, payload in attributes(view):
        if name == TCA_KIND and bytes(payload) != b"tbf\0":
            return 0
        if name == TCA_OPTIONS:
            for option, inner in attributes(payload):
                if option == TCA_TBF_PARMS:
                    return int(_RATESPEC.unpack_from(inner)[5])
    return 0


class RouteSocket:
    """A NETLINK_ROUTE socket. It talks to the network namespace of the thread that made it, whoever uses it."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK):
            self._socket.setsockopt(SOL_NETLINK, option, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", ANSWER_TIMEOUT_S, 0))
        self._sequence = 0

    def request(self, message: bytearray) -> memoryview:
        """Send one message and return the kernel's answer to it: an acknowledgement, or the object asked for.

        Raises NetlinkError with the kernel's errno and, where it gave one, its explanation.
        """
        self._sequence = (self._sequence + 1) & _U32_MAX
        struct.pack_into("=I", message, 8, self._sequence)
        self._socket.send(message)
        while True:
            answer = memoryview(self._socket.recv(16384))
            length, kind, flags, sequence, _ = _HEADER.unpack_from(answer)
            if sequence != self._sequence:
                continue  # the answer to a request that was interrupted
            if kind == NLMSG_ERROR:
                code = -struct.unpack_from("=i", answer, _HEADER.size)[0]
                if code:
                    raise NetlinkError(code, _explain(code, flags, answer[:length]))
            return answer[:length]

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _explain(code: int, flags: int, answer: memoryview) -> str:
    text = os.strerror(code)
    if flags & NLM_F_ACK_TLVS:
        original = _HEADER.size if flags & NLM_F_CAPPED else struct.unpack_from("=I", answer, _HEADER.size + 4)[0]
        for kind, payload in attributes(answer[_HEADER.size + 4 + original :]):
            if kind == NLMSGERR_ATTR_MSG:
                text += f": {bytes(payload).rstrip(bytes(1)).decode(errors='replace')}"
    return text
