"""Netlink messages: what is packed is what the kernel's own layout gives back."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from testbed.emulation import netlink
from testbed.emulation.netlink import TbfRequest, attribute, attributes, parse_qdisc
from testbed.emulation.shaping import KICK_BYTES, KICK_ETHERTYPE, kick_frame, netem_limit_packets, tbf_parameters


@given(st.lists(st.tuples(st.integers(1, 200), st.binary(max_size=40)), max_size=8))
def test_attributes_come_back_as_they_were_packed(pairs: list[tuple[int, bytes]]) -> None:
    packed = b"".join(attribute(kind, payload) for kind, payload in pairs)
    assert [(kind, bytes(payload)) for kind, payload in attributes(packed)] == pairs
    assert len(packed) % 4 == 0


@given(st.integers(1, 2**32 - 1), st.integers(1, 2**31), st.integers(1600, 2**31))
def test_a_patched_message_says_the_new_rate_and_limit_and_keeps_its_length(rate: int, limit: int, burst: int) -> None:
    request = TbfRequest(0, 7, 0x10000)
    length = len(request.message)
    message = request.patch(rate, limit, burst)
    qdisc = parse_qdisc(message)
    assert (qdisc.ifindex, qdisc.handle, qdisc.kind) == (7, 0x10000, "tbf")
    assert (qdisc.rate_Bps, qdisc.limit) == (rate, limit)
    assert netlink.tbf_rate_Bps(message) == rate
    assert len(message) == length == struct.unpack_from("=I", message)[0]


def test_a_burst_that_overflows_the_tick_field_still_travels_in_bytes() -> None:
    message = TbfRequest(0, 7, 0x10000).patch(1, 64_000, 1600)
    assert message[-4:] == struct.pack("=I", 1600)


def test_a_truncated_attribute_ends_the_walk_instead_of_looping() -> None:
    assert list(attributes(b"\x00\x00\x01\x00" + bytes(8))) == []


def test_ticks_follow_the_scale_of_proc_net_psched() -> None:
    assert netlink.to_ticks(1.0) == round(netlink.ticks_per_second())
    assert netlink.to_ticks(1e9) == 0xFFFFFFFF


def test_burst_is_a_quarter_of_a_millisecond_of_rate_but_at_least_a_full_frame() -> None:
    assert tbf_parameters(20_000) == (2_500, 1_000_000, 1_600)
    assert tbf_parameters(50_000_000) == (6_250_000, 1_000_000, 1_514 + 625)  # a full frame and 0.1 ms of rate
    assert tbf_parameters(100_000_000) == (12_500_000, 1_250_000, 3_125)


def test_netem_can_hold_what_is_in_flight_on_a_long_fast_link() -> None:
    assert netem_limit_packets(1e9, 0.1) * 1500 >= 1.5 * 1e9 / 8 * 0.1
    assert netem_limit_packets(1e6, 0.001) == 1000


def test_the_kick_is_a_shortest_frame_of_an_experimental_type() -> None:
    frame = kick_frame(bytes(6))
    assert len(frame) == KICK_BYTES
    assert struct.unpack_from("!H", frame, 12)[0] == KICK_ETHERTYPE
