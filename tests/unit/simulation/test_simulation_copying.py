"""Copies in virtual time: a device that copies to several others has caught up when the last of them has."""

from __future__ import annotations

from placement_cases import quickstart

from testbed.placement.blocks import Block, blocks_of
from testbed.simulation.copying import Copying
from testbed.transport.copying import Copy, StreamOrder


def test_a_stream_that_has_ended_before_the_others_of_its_sender_is_not_waited_for() -> None:
    seen = quickstart()
    heads = [str(block) for block in blocks_of(seen.shape, seen.partition) if block.kind == Block("head", 0, 0).kind]
    source, *others = (view.name for view in seen.devices)
    orders = [
        StreamOrder(others[0], heads[:1], 1e6, 4096, 65536),
        StreamOrder(others[1], heads[1:9], 1e6, 4096, 65536),
    ]
    copying = Copying(1, 0.0)
    copying.begin(source, Copy(1, orders, False), 64, seen, 0.0)
    first, last = sorted(stream.end_s for stream in copying.streams)
    assert first < last
    copying.proceed(first, seen)
    assert copying.take_caught_up(first) == [] and copying.next_s > first
    copying.proceed(last, seen)
    assert copying.take_caught_up(last) == [source]
