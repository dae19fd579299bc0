"""A probe carries the bytes that were asked for, no more, and its receiver times them."""

from __future__ import annotations

import pytest

from testbed.transport.data import ProbeFrame
from testbed.transport.messages import Pinged, Probe, Probed
from testbed.worker.chunks import CHUNK_BYTES
from testbed.worker.probing import Probing


class Wire:
    """Stands in for an outbox and keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[ProbeFrame, int]] = []

    def send(self, peer: str, header: ProbeFrame, payload: memoryview | bytes = b"") -> float:
        self.sent.append((header, len(payload)))
        return 0.0


@pytest.mark.parametrize("size", [1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 118750, 10 * CHUNK_BYTES])
def test_a_probe_sends_as_many_bytes_as_were_asked_for_and_times_them_from_its_empty_frame_on(size: int) -> None:
    wire, reports = Wire(), list[Probed | Pinged]()
    Probing(wire, reports.append).probe(Probe("b", size))  # type: ignore[arg-type]
    assert sum(sent for _, sent in wire.sent) == size and wire.sent[0][1] == 0
    receiver = Probing(wire, reports.append)  # type: ignore[arg-type]
    for number, (header, sent) in enumerate(wire.sent):
        receiver.take(header, sent, 10.0 + number)
    assert reports == [Probed("", size, float(len(wire.sent) - 1), 10.0 + len(wire.sent) - 1)]
