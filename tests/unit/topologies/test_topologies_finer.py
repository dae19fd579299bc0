"""A device's finer numbers in a topology file: read with units, refused with a sentence, and written back exactly."""

from __future__ import annotations

from typing import Any

import pytest
from refusals import refusal

from testbed.errors import ConfigError
from testbed.topologies.catalogue import PROVENANCES, boards
from testbed.topologies.finer import FINER_KEYS
from testbed.topologies.model import Topology, describe

DEVICE = {
    "streaming": "10 GB/s",
    "compute": "100 GFLOP/s",
    "memory": "8 GiB",
    "storage": "90 MB/s",
    "link": {"rate": "1 Gbit/s"},
}
FINER = {
    "streaming_by_format": {"q4_0": "9 GB/s", "float16": "10.1 GB/s"},
    "kv_streaming": "7 GB/s",
    "kv_rereads": 2,
    "compute_by_format": {"q4_0": "40 GFLOP/s"},
    "threads": 4,
    "serial_share": "2 %",
    "barrier": "12 us",
    "send": "20 us",
    "receive": "30 us",
    "send_per_byte": "2 ns/B",
    "receive_per_byte": "3 ns/B",
    "idle_power": "3 W",
    "busy_power": "12 W",
}


def topology(**fields: Any) -> Topology:
    return Topology.from_dict({"source": "a", "devices": {"a": DEVICE | fields}}, "net.yaml")


def test_every_key_is_read_in_si_units_and_written_back_exactly() -> None:
    assert set(FINER) == set(FINER_KEYS)
    found = topology(**FINER)
    model = found.device("a").model
    assert model.streaming_Bps == (("float16", 10.1e9), ("q4_0", 9e9)) and model.kv_streaming_Bps == 7e9
    assert (model.kv_rereads, model.threads, model.serial_share) == (2.0, 4, 0.02)
    assert (model.barrier_s, model.send_s, model.receive_s) == (12e-6, 20e-6, 30e-6)
    assert (model.send_s_per_byte, model.receive_s_per_byte) == (2e-9, 3e-9)
    assert (model.idle_watts, model.busy_watts) == (3.0, 12.0)
    assert Topology.from_dict(found.to_dict()) == found
    assert describe(found)["devices"][0]["finer"]["threads"] == 4
    assert "finer" not in describe(topology())["devices"][0]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("streaming_by_format", {"q4": "9 GB/s"}, ["streaming_by_format", "'q4'"]),
        ("streaming_by_format", {"q4_0": "0 GB/s"}, ["streaming_by_format.q4_0", "more than zero"]),
        ("threads", 0, ["threads", "1 to 1024"]),
        ("kv_rereads", "0", ["kv_rereads", "more than zero"]),
        ("serial_share", "120 %", ["serial_share", "100 %"]),
        ("send_per_byte", "2 ns", ["send_per_byte", "2 ns/B"]),
        ("busy_power", "12", ["busy_power", "6 W"]),
    ],
)
def test_a_wrong_value_is_refused_by_name(key: str, value: object, expected: list[str]) -> None:
    refusal(lambda: topology(**{key: value}), *expected, begin="net.yaml")


def test_a_shape_without_links_of_the_devices_own_refuses_times_of_messages() -> None:
    device = {key: value for key, value in DEVICE.items() if key != "link"}
    links = [{"ends": ["a", "b"], "rate": "1 Gbit/s"}]
    mapping = {"shape": "mesh", "source": "a", "devices": {"a": device | {"send": "1 us"}, "b": device}, "links": links}
    with pytest.raises(ConfigError, match="devices.a.send needs a link of the device's own, which a mesh lacks"):
        Topology.from_dict(mapping)


def test_every_value_of_the_catalogue_says_where_it_is_from() -> None:
    for board in boards().values():
        assert set(board.values) == set(board.sources) == set(board.provenances)
        assert set(board.provenances.values()) <= set(PROVENANCES)
