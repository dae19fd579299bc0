"""Shapes beside the star: what links they have, which way messages go, and slips in one sentence."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refusal

from testbed.topologies.links import Cable, Link
from testbed.topologies.mininet_adapter import build_topo, neighbours
from testbed.topologies.model import Topology
from testbed.topologies.routes import routes_between

BARE = {"streaming": "1 GB/s", "compute": "1 GFLOP/s", "memory": "64 MiB", "storage": "90 MB/s"}
ACCESS = {"rate": "100 Mbit/s", "delay": "1 ms"}
LINK = {"rate": "10 Mbit/s", "delay": "2 ms"}


def bare(names: str) -> dict[str, Any]:
    return {"source": names[0], "devices": {name: dict(BARE) for name in names}}


def ring(names: str = "abcde", **keys: Any) -> dict[str, Any]:
    return {"shape": "ring", "link": LINK, **bare(names), **keys}


def mesh(names: str, *ends: str, **keys: Any) -> dict[str, Any]:
    links = [{"ends": list(pair), **LINK} for pair in ends]
    return {"shape": "mesh", **bare(names), "links": links, **keys}


def two_tier(clusters: dict[str, list[str]] | None = None, **keys: Any) -> dict[str, Any]:
    clusters = clusters or {"left": ["a", "b"], "right": ["c", "d"]}
    names = sorted(itertools.chain(*clusters.values()))
    devices = {name: BARE | {"link": ACCESS} for name in names}
    return {"shape": "two-tier", "source": names[0], "devices": devices, "clusters": clusters, "backhaul": LINK} | keys


def test_two_clusters_share_one_backhaul_from_the_first_to_the_second() -> None:
    topology = Topology.from_dict(two_tier())
    assert topology.switches == ("s1", "s2")
    assert [(link.name, link.ends) for link in topology.links] == [
        ("a", ("a", "s1")), ("b", ("b", "s1")), ("c", ("c", "s2")), ("d", ("d", "s2")), ("backhaul", ("s1", "s2")),
    ]  # fmt: skip
    assert topology.route("a", "b") == (("a", "up"), ("b", "down"))
    assert topology.route("a", "d") == (("a", "up"), ("backhaul", "up"), ("d", "down"))
    assert topology.route("d", "a") == (("d", "up"), ("backhaul", "down"), ("a", "down"))


def test_more_clusters_meet_at_a_switch_in_the_middle() -> None:
    topology = Topology.from_dict(two_tier({"one": ["a"], "two": ["b", "c"], "three": ["d"]}))
    assert topology.switches == ("s1", "s2", "s3", "s4")
    assert [(link.name, link.ends) for link in topology.cables] == [
        ("backhaul-one", ("s1", "s4")), ("backhaul-two", ("s2", "s4")), ("backhaul-three", ("s3", "s4")),
    ]  # fmt: skip
    assert topology.route("a", "c") == (("a", "up"), ("backhaul-one", "up"), ("backhaul-two", "down"), ("c", "down"))


def full_mesh(*names: str, **keys: Any) -> dict[str, Any]:
    devices = {name: dict(BARE) for name in names}
    return {"shape": "mesh", "source": names[0], "devices": devices, "link": LINK, **keys}


def test_links_of_devices_with_dashes_have_names_of_their_own() -> None:
    topology = Topology.from_dict(full_mesh("a", "b-c", "a-b", "c"))
    assert [link.name for link in topology.links] == ["a:b-c", "a-a-b", "a-c", "b-c-a-b", "b-c-c", "a-b:c"]
    assert len(topology.interfaces) == 12
    assert Topology.from_dict(json.loads(json.dumps(topology.to_dict()))) == topology
    pairs = ["a", "b-c"], ["c", "a-b"], ["a", "c"]
    some = Topology.from_dict(full_mesh("a", "b-c", "a-b", "c", links=[{"ends": pair} for pair in pairs]))
    assert [link.name for link in some.links] == ["a-b-c", "c-a-b", "a-c"]  # each can mean one link only


def test_a_link_that_would_be_named_like_a_device_is_not() -> None:
    topology = Topology.from_dict(full_mesh("a", "b", "a-b"))
    assert [link.name for link in topology.links] == ["a:b", "a-a-b", "b-a-b"]
    ringed = Topology.from_dict({**full_mesh("a", "b", "a-b"), "shape": "ring"})
    assert [link.name for link in ringed.links] == ["a:b", "b-a-b", "a-b-a"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text("ab-", min_size=1, max_size=5).map("a".__add__), min_size=3, max_size=6, unique=True),
    st.sampled_from(["mesh", "ring", "random"]),
    st.integers(0, 5),
)
def test_no_two_links_share_a_name_and_a_written_topology_reads_back(names: list[str], shape: str, seed: int) -> None:
    form = {**full_mesh(*names), "shape": shape}
    if shape == "random":
        del form["link"]
        form["links"] = {"degree": 2, "seed": seed, "rate": ["1 Mbit/s", "2 Mbit/s"]}
    topology = Topology.from_dict(form)
    assert len({link.name for link in topology.links} | set(names)) == len(topology.links) + len(names)
    assert Topology.from_dict(json.loads(json.dumps(topology.to_dict()))) == topology


REFUSED_NAMES: list[tuple[dict[str, Any], list[str]]] = [
    (ring("abcd", links=[{"ends": ["a", "b"], "name": "c-d"}]), ["two links", "c-d", "a to b", "c to d"]),
    (ring("abcd", links=[{"ends": ["a", "b"], "name": "x"}, {"ends": ["b", "c"], "name": "x"}]), ["named x"]),
    (ring("abcd", links=[{"ends": ["a", "b"], "name": "c"}]), ["named c", "like a device"]),
    (ring("abcd", links=[{"ends": ["a", "b"], "name": "x" * 61}]), ["links.0.name", "at most 60"]),
    (ring("abcd", links=[{"ends": ["a", "b"], "name": "x\x1b[2J"}]), ["links.0.name", "\\x1b"]),
    (ring("abcd", links=[{"ends": ["a", "b"], "name": ""}]), ["links.0.name", "''"]),
    (two_tier({"a/b": ["a"], "c": ["b"], "d": ["c"]}), ["clusters", "'a/b'"]),
    (two_tier({"x" * 300: ["a"], "c": ["b"], "d": ["c"]}), ["clusters", "xxx", "at most 60"]),
    (full_mesh(*(f"edgenode{number:02}" for number in range(12))), ["edgenode00-eth10", "16 characters", "15"]),
    (ring("abc") | {"devices": {f"d{number}": BARE for number in range(129)}, "source": "d0"}, ["129", "at most 128"]),
    (ring("abc", link={"rate": "1 Mbit/s"}, source=["a"]), ["source"]),
    (mesh("ab") | {"shape": ["mesh"]}, ["shape", "['mesh']"]),
    (mesh("ab") | {"links": [{"ends": [["a"], "b"], **LINK}]}, ["links.0.ends"]),
]


@pytest.mark.parametrize(("mapping", "expected"), REFUSED_NAMES)
def test_names_that_cannot_be_are_refused_in_one_sentence(mapping: dict[str, Any], expected: list[str]) -> None:
    assert len(refusal(lambda: Topology.from_dict(mapping, "net.yaml"), *expected, begin="net.yaml: ")) < 300


def test_names_just_short_enough_are_taken() -> None:
    Topology.from_dict(full_mesh(*(f"edgenode{number:02}" for number in range(11))))


def test_a_ring_goes_the_shorter_way_round() -> None:
    topology = Topology.from_dict(ring())
    assert [link.name for link in topology.links] == ["a-b", "b-c", "c-d", "d-e", "e-a"]
    assert topology.route("a", "c") == (("a-b", "up"), ("b-c", "up"))
    assert topology.route("a", "d") == (("e-a", "down"), ("d-e", "down"))
    slow = ring(links=[{"ends": ["b", "a"], "rate": "1 Mbit/s", "delay": "50 ms", "name": "far"}])
    topology = Topology.from_dict(slow)
    assert topology.links[0].name == "far" and topology.links[0].link.up_bps == 1e6
    assert topology.route("a", "b") == (("e-a", "down"), ("d-e", "down"), ("c-d", "down"), ("b-c", "down"))


def test_a_mesh_without_links_has_one_between_every_pair() -> None:
    mapping = mesh("abcd") | {"link": LINK}
    del mapping["links"]
    topology = Topology.from_dict(mapping)
    assert [link.name for link in topology.links] == ["a-b", "a-c", "a-d", "b-c", "b-d", "c-d"]
    assert all(len(route) == 1 for route in (topology.routes or {}).values())


def test_of_equal_delays_the_fewest_links_win_and_then_the_first_link() -> None:
    topology = Topology.from_dict(mesh("abcd", "ab", "bd", "ac", "cd"))
    assert topology.route("a", "d") == (("a-b", "up"), ("b-d", "up"))
    mapping = mesh("abc", "ab", "bc", "ac")
    mapping["links"][2]["delay"] = "4 ms"
    assert Topology.from_dict(mapping).route("a", "c") == (("a-c", "up"),)
    mapping["links"][2]["delay"] = "4.1 ms"
    assert Topology.from_dict(mapping).route("a", "c") == (("a-b", "up"), ("b-c", "up"))


def test_a_random_topology_is_drawn_at_load_and_the_same_for_a_seed() -> None:
    links = {"degree": 3, "seed": 5, "rate": ["10 Mbit/s", "50 Mbit/s"], "delay": ["1 ms", "3 ms"]}
    mapping = {"shape": "random", **bare("abcdefgh"), "links": links}
    topology = Topology.from_dict(mapping)
    assert topology == Topology.from_dict(mapping)
    assert topology.shape == "mesh" and len(topology.links) == 12
    assert all(1e7 <= link.link.up_bps <= 5e7 and 1e-3 <= link.link.up_delay_s <= 3e-3 for link in topology.links)
    assert topology.cables != Topology.from_dict(mapping | {"links": links | {"seed": 6}}).cables
    # Written down, so that another version of this package, or of Python, cannot quietly draw other links.
    assert [link.name for link in topology.links] == DRAWN


DRAWN = ["a-c", "a-d", "a-e", "a-h", "b-e", "b-g", "b-h", "c-e", "c-f", "d-e", "f-h", "g-h"]


@settings(deadline=None)
@given(st.integers(1, 12), st.floats(1, 6), st.integers(0, 99))
def test_every_random_topology_is_connected_and_written_exactly(count: int, degree: float, seed: int) -> None:
    links = {"degree": degree, "seed": seed, "rate": ["10 Mbit/s", "50 Mbit/s"], "delay": ["1 ms", "3 ms"]}
    topology = Topology.from_dict({"shape": "random", **bare("abcdefghijkl"[:count]), "links": links})
    assert len(topology.routes or {}) == count * (count - 1)
    pairs = count * (count - 1) // 2
    assert len(topology.links) == min(pairs, max(count - 1, round(degree * count / 2)))
    assert Topology.from_dict(json.loads(json.dumps(topology.to_dict()))) == topology


@pytest.mark.parametrize(
    "mapping",
    [
        two_tier(),
        two_tier({"one": ["a"], "two": ["b", "c"], "three": ["d"]}),
        ring(links=[{"ends": ["c", "b"], "up": "1 Mbit/s", "down": "3 Mbit/s", "name": "slow"}]),
        mesh("abc", "ab", "bc"),
        mesh("abc", "ab", "bc") | {"link": {"rate": "1 Mbit/s", "delay": "3 ms", "jitter": "0.1 ms", "loss": "1 %"}},
    ],
    ids=["two-tier", "three clusters", "ring", "mesh", "loss"],
)
def test_what_to_dict_writes_reads_back_the_same(mapping: dict[str, Any]) -> None:
    topology = Topology.from_dict(mapping)
    written = json.loads(json.dumps(topology.to_dict()))
    assert Topology.from_dict(written) == topology
    assert Topology.from_dict(written).to_dict() == written


def test_jitter_and_loss_may_differ_by_direction() -> None:
    link = {"rate": "1 Mbit/s", "delay": "5 ms", "jitter_up": "1 ms", "jitter_down": "2 ms", "loss": "0.5 %"}
    (cable,) = Topology.from_dict(mesh("ab") | {"links": [{"ends": ["a", "b"], **link}]}).links
    assert cable.link == Link(1e6, 1e6, 5e-3, 5e-3, 0.005, 0.005, 1e-3, 2e-3) and cable.link.needs_netem


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        (two_tier(backhaul=None), ["backhaul", "mapping"]),
        (two_tier({"all": ["a", "b"]}), ["clusters has 1", "two"]),
        (two_tier(clusters={"left": ["a", "b"], "right": ["c"]}) | {"clusters": {"left": ["a"], "right": ["c"]}},
         ["device b is in no cluster", "left, right"]),
        (two_tier() | {"clusters": {"left": ["a", "b", "c"], "right": ["c", "d"]}}, ["device c is in two clusters"]),
        (two_tier() | {"clusters": {"left": ["a", "b"], "right": ["c", "d", "z"]}}, ["clusters.right", "'z'"]),
        (two_tier({"left": ["a", "s2"], "right": ["c"]}), ["'s2'", "switch"]),
        (two_tier({"left": ["a", "backhaul"], "right": ["c"]}), ["'backhaul'", "switch or backhaul"]),
        (ring("ab"), ["ring of 2", "at least 3"]),
        (ring(links=[{"ends": ["a", "c"], **LINK}]), ["a-c", "not neighbours"]),
        ({key: value for key, value in ring().items() if key != "link"}, ["link a-b is not described", "give link"]),
        (ring(clusters={}), ["'clusters'", "ring topology"]),
        (ring() | {"devices": {name: BARE | {"link": ACCESS} for name in "abc"}}, ["devices.a has a link", "ring"]),
        (mesh("abcd", "ab", "cd"), ["no links lead from a to c"]),
        (mesh("abc", "ab", "bc", "ba"), ["a-b and b-a", "same two devices"]),
        (mesh("abc", links=[{"ends": ["a", "b"], **LINK}, {"ends": ["b", "c"], "name": "a-b", **LINK}]),
         ["two links are named a-b"]),
        (mesh("abc", "ab", "bz"), ["links.1.ends", "two of the devices"]),
        (mesh("abc", "ab", "bb"), ["links.1.ends"]),
        (mesh("ab", links=[{"ends": ["a", "b"]}]), ["links.0.up", "missing"]),
        (mesh("ab", links={"a": "b"}), ["links must be a list"]),
        (mesh("ab", links=[{"ends": ["a", "b"], "name": "a b", **LINK}]), ["links.0.name", "word"]),
        (mesh("ab", links=[{"ends": ["a", "b"], "rate": "1 Mbit/s", "delay": "1 ms", "jitter": "2 ms"}]),
         ["links.0", "more jitter than delay"]),
        (mesh("ab", links=[{"ends": ["a", "b"], "rate": "1 Mbit/s", "loss": "100 %"}]), ["loses every packet"]),
        ({"shape": "random", **bare("abc"), "links": {"degree": 0, "seed": 1, "rate": ["1 Mbit/s", "2 Mbit/s"]}},
         ["links.degree is 0"]),
        ({"shape": "random", **bare("abc"), "links": {"degree": 2, "seed": "x", "rate": ["1 Mbit/s", "2 Mbit/s"]}},
         ["links.seed is 'x'"]),
        ({"shape": "random", **bare("abc"), "links": {"degree": 2, "seed": 1, "rate": ["3 Mbit/s", "2 Mbit/s"]}},
         ["links.rate", "lower bound"]),
        ({"shape": "random", **bare("abc"), "links": {"degree": 2, "seed": 1, "rate": "3 Mbit/s"}},
         ["links.rate", "two bounds"]),
    ],
)  # fmt: skip
def test_a_slip_is_one_sentence_with_file_key_and_remedy(mapping: Any, expected: list[str]) -> None:
    refusal(lambda: Topology.from_dict(mapping, "net.yaml"), *expected, begin="net.yaml")


@st.composite
def networks(draw: st.DrawFn) -> tuple[list[str], list[Cable]]:
    names = "abcdef"[: draw(st.integers(2, 6))]
    delay = st.integers(0, 5).map(lambda ms: ms / 1000)
    pairs = {(draw(st.sampled_from(names[:n])), names[n]) for n in range(1, len(names))}
    pairs |= set(draw(st.lists(st.sampled_from(list(itertools.combinations(names, 2))), max_size=5)))
    return list(names), [Cable("-".join(ends), ends, Link(1, 1, draw(delay), draw(delay))) for ends in sorted(pairs)]


@given(networks())
def test_routes_are_the_fastest_and_every_node_on_the_way_agrees(network: tuple[list[str], list[Cable]]) -> None:
    names, cables = network
    routes = routes_between(names, cables)
    by_name = {cable.name: cable for cable in cables}
    delays = {(a, b): (0.0 if a == b else float("inf"), 0) for a in names for b in names}
    for cable in cables:
        delays[cable.ends] = (cable.link.up_delay_s, 1)
        delays[cable.ends[::-1]] = (cable.link.down_delay_s, 1)
    for middle, a, b in itertools.product(names, names, names):
        through = tuple(x + y for x, y in zip(delays[a, middle], delays[middle, b], strict=True))
        delays[a, b] = min(delays[a, b], (round(through[0], 9), int(through[1])))
    for (a, b), route in routes.items():
        node, total = a, 0.0
        for number, hop in enumerate(route):
            cable = by_name[hop[0]]
            assert cable.hop_from(node) == hop
            total += cable.link.up_delay_s if hop[1] == "up" else cable.link.down_delay_s
            node = cable.beyond(node)
            assert node == b or routes[node, b] == route[number + 1 :]
        assert node == b
        assert total == pytest.approx(delays[a, b][0], abs=1e-9)
    assert len(routes) == len(names) * (len(names) - 1)


def test_mininet_names_each_directions_interface_and_each_hosts_neighbours() -> None:
    topology = Topology.from_dict(mesh("abcd", "ab", "bd", "ac", "cd"))
    leaving = topology.interfaces
    assert leaving["a-b", "up"] == ("a", "a-eth0") and leaving["a-c", "up"] == ("a", "a-eth1")
    assert leaving["c-d", "down"] == ("d", "d-eth1")
    assert neighbours(topology, "a") == {"b": ("b", "a-eth0"), "c": ("c", "a-eth1"), "d": ("b", "a-eth0")}
    topo = build_topo(topology)
    assert topo.switches() == [] and sorted(topo.hosts()) == ["a", "b", "c", "d"]
    assert topo.nodeInfo("a")["ip"] == "10.0.0.1/32"
    assert topo.nodeInfo("a")["routes"] == [
        ("10.0.0.2", "10.0.0.2", "a-eth0"), ("10.0.0.3", "10.0.0.3", "a-eth1"), ("10.0.0.4", "10.0.0.2", "a-eth0"),
    ]  # fmt: skip


def test_mininet_joins_the_clusters_switches() -> None:
    topo = build_topo(Topology.from_dict(two_tier()), shaped=True)
    assert sorted(topo.switches()) == ["s1", "s2"]
    (info,) = [info for _, _, info in topo.links(withInfo=True) if {info["node1"], info["node2"]} == {"s1", "s2"}]
    assert (info["params1"]["bw"], info["params2"]["delay"]) == (10, "2ms")
    assert "routes" not in topo.nodeInfo("a")
