"""A topology file says who is in the network, and every slip in it is one sentence."""

from __future__ import annotations

import copy
import json
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refusal

from testbed.bundled import find_file
from testbed.errors import ConfigError
from testbed.models.presets import PRESETS
from testbed.placement.blocks import Block, blocks_of, pinned_bytes, resident_bytes
from testbed.topologies.catalogue import DEVICE_QUANTITIES, boards
from testbed.topologies.mininet_adapter import build_topo
from testbed.topologies.model import Device, Link, Topology, describe, list_bundled
from testbed.units import parse_bandwidth, parse_bytes, parse_compute

REPOSITORY = Path(__file__).resolve().parents[3]
MIB = 2**20

GOOD: dict[str, Any] = {
    "shape": "star",
    "source": "a",
    "devices": {
        "a": {
            "streaming": "3 GB/s",
            "compute": "12 GFLOP/s",
            "memory": "256 MiB",
            "storage": "90 MB/s",
            "link": {"rate": "100 Mbit/s", "delay": "0.3 ms"},
        },
        "b": {
            "catalogue": "raspberry-pi-4",
            "memory": "128 MiB",
            "link": {"up": "20 Mbit/s", "down": "50 Mbit/s", "delay": "1 ms"},
        },
    },
}


def changed(*where: str, value: Any = None, remove: bool = False) -> dict[str, Any]:
    """GOOD with one place set or removed."""
    mapping = copy.deepcopy(GOOD)
    inside = mapping
    for key in where[:-1]:
        inside = inside[key]
    if remove:
        del inside[where[-1]]
    else:
        inside[where[-1]] = value
    return mapping


def test_quantities_become_si_numbers() -> None:
    topology = Topology.from_dict(GOOD, "somewhere/net.yaml")
    assert topology.name == "net"
    assert topology.device("a") == Device("a", 3e9, 12e9, 256 * MIB, 90e6, Link(1e8, 1e8, 0.0003, 0.0003))


def test_a_device_takes_catalogue_values_and_overrides_them() -> None:
    device = Topology.from_dict(GOOD).device("b")
    board = boards()["raspberry-pi-4"]
    assert device.streaming_Bps == parse_bandwidth(board.values["streaming"])
    assert device.compute_flops == parse_compute(board.values["compute"])
    assert device.memory_bytes == 128 * MIB != parse_bytes(board.values["memory"])
    assert device.link == Link(20e6, 50e6, 0.001, 0.001)


def test_the_order_of_devices_is_the_files() -> None:
    mapping = GOOD | {"devices": dict(reversed(GOOD["devices"].items()))}
    assert [device.name for device in Topology.from_dict(mapping).devices] == ["b", "a"]


def test_delay_may_differ_by_direction_and_is_zero_when_left_out() -> None:
    link = {"rate": "1 Mbit/s", "delay_up": "1 ms", "delay_down": "2 ms"}
    assert Topology.from_dict(changed("devices", "a", "link", value=link)).device("a").link == Link(
        1e6, 1e6, 1e-3, 2e-3
    )
    link = {"rate": "1 Mbit/s"}
    assert Topology.from_dict(changed("devices", "a", "link", value=link)).device("a").link == Link(1e6, 1e6, 0.0, 0.0)


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        (changed("sorce", value="a"), ["'sorce'", "did you mean 'source'"]),
        (
            changed("devices", "a", "stremaing", value="1 GB/s"),
            ["'stremaing'", "devices.a", "did you mean 'streaming'"],
        ),
        (changed("devices", "a", "link", "dealy", value="1 ms"), ["'dealy'", "devices.a.link", "did you mean 'delay'"]),
        (
            changed("devices", "b", "link", "up", value="-5 Mbit/s"),
            ["devices.b.link.up", "'-5 Mbit/s'", "not negative"],
        ),
        (
            changed("devices", "b", "link", "up", value="0 Mbit/s"),
            ["devices.b.link.up", "'0 Mbit/s'", "more than zero"],
        ),
        (changed("devices", "b", "link", "up", value="5 MB/s"), ["devices.b.link.up", "'5 MB/s'", "50 Mbit/s"]),
        (changed("devices", "b", "link", "up", remove=True), ["devices.b.link.up", "missing", "rate"]),
        (changed("devices", "b", "link", "rate", value="5 Mbit/s"), ["devices.b.link", "both rate and up"]),
        (changed("devices", "a", "link", "delay_up", value="1 ms"), ["devices.a.link", "both delay and delay_up"]),
        (
            changed("devices", "a", "link", value={"rate": "1 Mbit/s", "delay_up": "1 s"}),
            ["link.delay_down", "missing"],
        ),
        (changed("devices", "a", "link", remove=True), ["devices.a.link", "missing"]),
        (changed("devices", "a", "memory", remove=True), ["devices.a.memory", "missing"]),
        (changed("devices", "a", "memory", value="64 Mbit/s"), ["devices.a.memory", "'64 Mbit/s'", "256 MiB"]),
        (changed("devices", "a", "memory", value=64), ["devices.a.memory", "'64'", "256 MiB"]),
        (changed("devices", "a", "compute", value=True), ["devices.a.compute", "GFLOP/s"]),
        (changed("devices", "a", "streaming", value="0 GB/s"), ["devices.a.streaming", "more than zero"]),
        (changed("devices", "b", "catalogue", value="raspbery-pi-4"), ["catalogue", "did you mean 'raspberry-pi-4'"]),
        (changed("devices", "b", "catalogue", value=["x"]), ["devices.b.catalogue", "['x']"]),
        (changed("source", value="z"), ["source is 'z'", "choose from a, b"]),
        (changed("source", value=["a"]), ["source is ['a']"]),
        (changed("source", remove=True), ["'source'", "missing"]),
        (changed("devices", value={}), ["devices", "at least one"]),
        (changed("devices", value=["a"]), ["devices", "mapping"]),
        (changed("devices", "a", value=None), ["devices.a", "mapping", "nothing"]),
        (changed("devices", "elevenchars", value=GOOD["devices"]["a"]), ["'elevenchars'", "at most 10"]),
        (changed("devices", "a_b", value=GOOD["devices"]["a"]), ["'a_b'", "letters"]),
        (changed("devices", "1a", value=GOOD["devices"]["a"]), ["'1a'", "letter"]),
        (changed("devices", "s1", value=GOOD["devices"]["a"]), ["'s1'", "name"]),
        (changed("devices", True, value=GOOD["devices"]["a"]), ["True", "name"]),  # type: ignore[arg-type]
        (changed("shape", value="tree"), ["shape is 'tree'", "star", "two-tier", "ring", "mesh", "random"]),
        (changed("name", value=3), ["name is 3", "text"]),
        ([], ["mapping"]),
    ],
)
def test_a_slip_is_one_sentence_with_file_key_and_remedy(mapping: Any, expected: list[str]) -> None:
    refusal(lambda: Topology.from_dict(mapping, "net.yaml"), *expected, begin="net.yaml")


def test_a_device_written_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("source: a\ndevices:\n  a: {catalogue: jetson-nano}\n  a: {catalogue: jetson-nano}\n")
    with pytest.raises(ConfigError, match=r"twice\.yaml, line 4: .*'a' appears twice"):
        Topology.load(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [("devices: [", "line"), ("", "mapping"), ("\x00", "YAML"), ("a: !!python/object:os.x 1", "")],
)
def test_a_broken_file_is_one_sentence(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    refusal(lambda: Topology.load(path), str(path), expected)


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nope\.yaml: there is no such file"):
        Topology.load(tmp_path / "nope.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        Topology.load(tmp_path)


def test_an_unknown_device_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="no device 'c'"):
        Topology.from_dict(GOOD).device("c")


positive = st.floats(min_value=1e-6, max_value=1e15)
links = st.builds(Link, positive, positive, st.floats(0, 100), st.floats(0, 100))
names = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,9}", fullmatch=True).filter(lambda name: name != "s1")
devices = st.builds(
    Device, names, positive, positive, st.integers(1, 2**50), positive, links, st.sampled_from([None, "jetson-nano"])
)


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    found = draw(st.lists(devices, min_size=1, max_size=5, unique_by=lambda device: device.name))
    source = draw(st.sampled_from(found)).name
    name = draw(st.text(string.printable, min_size=1, max_size=8))
    return Topology(name=name, shape="star", source=source, devices=tuple(found))


@given(topologies())
def test_to_dict_is_exact_and_survives_json(topology: Topology) -> None:
    assert Topology.from_dict(json.loads(json.dumps(topology.to_dict()))) == topology


def test_every_catalogue_value_parses_and_cites_its_source() -> None:
    assert {"raspberry-pi-5", "raspberry-pi-4", "jetson-orin-nano", "jetson-nano"} <= set(boards())
    for board in boards().values():
        for key, parse in DEVICE_QUANTITIES.items():
            assert parse(board.values[key]) > 0
            assert len(board.sources[key]) > 10, (board.name, key)


def test_the_demo_topology_is_tight_but_holds_the_model() -> None:
    topology = Topology.load(find_file("topology", "star4"))
    shape = PRESETS["gpt2"]
    blocks = sum(resident_bytes(shape, block, 128) for block in blocks_of(shape))
    model = blocks + pinned_bytes(shape)
    room = sum(device.memory_bytes for device in topology.devices)
    assert 1.3 < room / model < 1.5
    assert all(device.memory_bytes < model for device in topology.devices)
    assert all(device.memory_bytes < blocks for device in topology.devices if device.name != topology.source)
    spare = topology.device("a").memory_bytes - pinned_bytes(shape)
    assert topology.source == "a" and spare > resident_bytes(shape, Block("ffn", 0), 128)
    assert sum(device.streaming_Bps for device in topology.devices) <= 6.9e9 * (1 + 1e-9)
    for device in topology.devices:
        assert 50e6 <= device.link.up_bps == device.link.down_bps <= 200e6
        assert 0.0002 <= device.link.up_delay_s == device.link.down_delay_s <= 0.001
    assert len({device.streaming_Bps for device in topology.devices}) == 4
    assert (topology.device("b").memory_bytes, topology.device("c").link.up_bps) == (176 * MIB, 100e6)  # the traces'


def test_bundled_topologies_are_listed_and_described() -> None:
    rows = list_bundled()
    assert [row["name"] for row in rows] == ["four-boards", "mesh4", "ring5", "star4", "two-tier6", "wifi4"]
    for row in rows:
        shown = json.loads(json.dumps(describe(Topology.load(row["path"]))))
        assert shown["memory_bytes"] == row["memory_bytes"] == sum(each["memory_bytes"] for each in shown["devices"])
        assert [each["name"] for each in shown["devices"] if each["source"]] == ["a"]
        links = {"four-boards": 4, "mesh4": 5, "ring5": 5, "star4": 4, "two-tier6": 7, "wifi4": 1}
        assert len(shown["links"]) == links[row["name"]]


def test_a_described_catalogue_device_says_where_its_values_are_from() -> None:
    described = describe(Topology.from_dict(GOOD))["devices"]
    assert "STREAM" in described[1]["value_sources"]["streaming"] and "value_sources" not in described[0]


def test_a_topology_is_found_by_path_or_bundled_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("")
    assert find_file("topology", str(file)) == file
    assert find_file("topology", "star4").name == "star4.yaml"
    with pytest.raises(ConfigError, match=r"star5: .*did you mean 'star4'"):
        find_file("topology", "star5")


@pytest.mark.parametrize("name", ["mesh4", "ring5", "two-tier6", "wifi4"])
def test_the_other_bundled_topologies_hold_the_gpt2_preset_and_no_device_does(name: str) -> None:
    topology, shape = Topology.load(find_file("topology", name)), PRESETS["gpt2"]
    model = sum(resident_bytes(shape, block, 128) for block in blocks_of(shape)) + pinned_bytes(shape)
    assert 1.3 < sum(device.memory_bytes for device in topology.devices) / model < 1.5
    assert topology.device(topology.source).memory_bytes > pinned_bytes(shape)
    assert sum(device.streaming_Bps for device in topology.devices) <= 7e9 * (1 + 1e-9)


def test_the_mininet_topo_is_a_star_with_plain_links() -> None:
    topo = build_topo(Topology.from_dict(GOOD))
    assert sorted(topo.hosts()) == ["a", "b"] and topo.switches() == ["s1"]
    found = topo.links(withInfo=True)
    assert sorted(sorted((one, other)) for one, other, _ in found) == [["a", "s1"], ["b", "s1"]]
    assert all("cls" not in info and "params1" not in info for _, _, info in found)


def test_a_shaped_mininet_topo_has_the_links_rates_and_delays_by_direction() -> None:
    topo = build_topo(Topology.from_dict(GOOD), shaped=True)
    (info,) = [info for _, _, info in topo.links(withInfo=True) if "b" in (info["node1"], info["node2"])]
    assert info["node1"] == "b"
    assert (info["params1"]["bw"], info["params2"]["bw"]) == (20, 50)
    assert (info["params1"]["delay"], info["params2"]["delay"]) == ("1ms", "1ms")


def test_a_rate_that_mininet_would_leave_unshaped_is_refused() -> None:
    mapping = changed("devices", "a", "link", "rate", value="2 Gbit/s")
    with pytest.raises(ConfigError, match="link of a is faster than 1 Gbit/s"):
        build_topo(Topology.from_dict(mapping), shaped=True)
