"""When which frames arrived at an interface: the kernel stamps and keeps them, and they are read afterwards.

A packet socket's memory-mapped ring (packet(7), Documentation/networking/packet_mmap.rst) costs the measuring process
nothing per frame, so forty thousand frames a second do not disturb what they measure. It knows interfaces and nothing
of rates.
"""

from __future__ import annotations

import mmap
import socket
import struct
from dataclasses import dataclass

from testbed.emulation.shaping import in_netns
from testbed.errors import EnvironmentLacks
from testbed.wire import FRAME_BYTES, SEGMENT_HEADER_BYTES, SEGMENT_PAYLOAD_BYTES

SLOT_BYTES = 128  # holds the ring's header, the sender's address and the start of the frame
BLOCK_BYTES = 1 << 16
DEFAULT_FRAMES = 1 << 16

_SOL_PACKET, _RX_RING, _STATISTICS, _VERSION, _IGNORE_OUTGOING = 263, 5, 6, 10, 23  # linux/if_packet.h
_TPACKET_V2, _STATUS_USER = 1, 1
SO_TIMESTAMPNS = 35  # asm-generic/socket.h
_ETH_P_ALL = 0x0003


@dataclass(frozen=True)
class Arrivals:
    """Frames in the order of their arrival: times (seconds of CLOCK_REALTIME) and bytes on the wire."""

    times_s: list[float]
    wire_bytes: list[int]


class Capture:
    """Collects what arrives at `ifname` in the network namespace of `pid` (None: here), until `stop`.

    Raises EnvironmentLacks where the kernel gives no such socket.
    """

    def __init__(self, pid: int | None, ifname: str, frames: int = DEFAULT_FRAMES) -> None:
        self._frames = frames
        where = "this network namespace" if pid is None else f"the network namespace of pid {pid}"
        try:
            self._socket = in_netns(pid, lambda: _open(ifname, frames))
        except OSError as error:
            raise EnvironmentLacks(
                f"cannot capture at {ifname} in {where}: {error.strerror}; run as root or inside a capsule (testbed "
                "doctor tells whether one can be made)"
            ) from error
        self._ring = mmap.mmap(self._socket.fileno(), frames * SLOT_BYTES)

    def stop(self) -> Arrivals:
        """End the capture and return the frames; raises EnvironmentLacks when the ring was too small for them."""
        import numpy as np

        _, dropped = struct.unpack("=II", self._socket.getsockopt(_SOL_PACKET, _STATISTICS, 8))
        self._socket.close()  # from here on the ring does not change
        slot = np.dtype(
            {
                "names": ["status", "length", "seconds", "nanoseconds"],
                "formats": ["u4", "u4", "u4", "u4"],
                "offsets": [0, 4, 16, 20],
                "itemsize": SLOT_BYTES,
            }
        )
        slots = np.frombuffer(bytes(self._ring), slot)
        self._ring.close()
        if dropped:
            raise EnvironmentLacks(
                f"{dropped} frames did not fit into a capture of {self._frames}: capture for a shorter time"
            )
        seen = slots[(slots["status"] & _STATUS_USER) != 0]
        times = seen["seconds"].astype(float) + seen["nanoseconds"] * 1e-9
        order = np.argsort(times, kind="stable")
        return Arrivals(times[order].tolist(), [wire_bytes(int(length)) for length in seen["length"][order]])


def wire_bytes(length: int) -> int:
    """Bytes on the wire of a packet as the kernel delivers it. One that was never split lacks its later headers."""
    if length <= FRAME_BYTES:
        return length
    segments = -(-(length - SEGMENT_HEADER_BYTES) // SEGMENT_PAYLOAD_BYTES)
    return length + (segments - 1) * SEGMENT_HEADER_BYTES


def _open(ifname: str, frames: int) -> socket.socket:
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)  # 0: nothing before the ring
    try:
        packets.setsockopt(_SOL_PACKET, _VERSION, _TPACKET_V2)
        packets.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
        # Stamp frames when they reach the interface, and not when the kernel hands them on.
        packets.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        ring = struct.pack("=IIII", BLOCK_BYTES, frames * SLOT_BYTES // BLOCK_BYTES, SLOT_BYTES, frames)
        packets.setsockopt(_SOL_PACKET, _RX_RING, ring)
        packets.bind((ifname, _ETH_P_ALL))
    except OSError:
        packets.close()
        raise
    return packets
