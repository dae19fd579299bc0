"""The shape `wifi`: one medium for all stations, which a message from station to station takes twice."""

from __future__ import annotations

from typing import Any

import pytest

from testbed.errors import ConfigError
from testbed.topologies.figure import positions
from testbed.topologies.graph import graphviz, mermaid
from testbed.topologies.mininet_adapter import build_topo
from testbed.topologies.model import Topology, describe

BARE = {"streaming": "1 GB/s", "compute": "1 GFLOP/s", "memory": "64 MiB", "storage": "90 MB/s"}
MEDIUM = {"rate": "40 Mbit/s", "delay": "1 ms"}


def wifi(names: str = "abc", **keys: Any) -> dict[str, Any]:
    devices = {name: dict(BARE) for name in names}
    return {"shape": "wifi", "source": names[0], "devices": devices, "medium": MEDIUM} | keys


def test_every_route_takes_the_one_medium_twice() -> None:
    topology = Topology.from_dict(wifi())
    assert [link.name for link in topology.links] == ["medium"]
    assert topology.route("a", "b") == topology.route("c", "a") == (("medium", "up"), ("medium", "up"))
    assert topology.interfaces == {("medium", "up"): ("s1", "s1-air")}
    assert topology.switches == ("s1",)


def test_a_wifi_is_written_as_it_was_read() -> None:
    topology = Topology.from_dict(wifi(medium=MEDIUM | {"jitter": "0.1 ms", "loss": "1 %"}))
    assert Topology.from_dict(topology.to_dict()) == topology
    assert describe(topology)["links"][0]["up_bps"] == 40e6


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"medium": None}, "medium must be"),
        ({"medium": {"up": "1 Mbit/s", "down": "2 Mbit/s"}}, "'up' is not a key of medium"),
        ({"medium": MEDIUM | {"rate": "0 Mbit/s"}}, "medium.rate is .* more than zero"),
        ({"devices": {"a": BARE | {"link": MEDIUM}}}, "a has a link, but in a wifi topology all share the medium"),
        ({"devices": {"a": BARE | {"send": "1 us"}}}, "a.send needs a link of the device's own, which a wifi lacks"),
        ({"devices": {"a": BARE, "medium": BARE}}, "is named medium, like a device"),
        ({"links": []}, "links"),
    ],
)
def test_slips_are_one_sentence(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Topology.from_dict(wifi() | changed)


def test_a_wifi_needs_its_medium() -> None:
    fields = wifi()
    del fields["medium"]
    with pytest.raises(ConfigError, match="the key 'medium' is missing"):
        Topology.from_dict(fields)


def test_drawings_show_the_medium_at_the_access_point() -> None:
    topology = Topology.from_dict(wifi())
    assert 'n0(("s1<br>40 Mbit/s<br>1 ms"))' in mermaid(topology) and "n1 --- n0" in mermaid(topology)
    assert '"s1" [shape=circle, label="s1\\n40 Mbit/s\\n1 ms"]' in graphviz(topology)
    assert positions(topology)["s1"] == (0.0, 0.0)


def test_plain_mininet_cannot_shape_it() -> None:
    with pytest.raises(ConfigError, match="is a wifi, whose stations share one queue"):
        build_topo(Topology.from_dict(wifi()), shaped=True)
    topo = build_topo(Topology.from_dict(wifi()))
    assert sorted(topo.hosts()) == ["a", "b", "c"] and len(topo.links()) == 3
