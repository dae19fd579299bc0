"""Drawings of topologies: every device and link is there, in text and in pictures."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from testbed.bundled import bundled
from testbed.cli import run
from testbed.topologies.figure import draw, positions
from testbed.topologies.graph import edges, graphviz, link_lines, mermaid
from testbed.topologies.model import Topology

Captured = pytest.CaptureFixture[str]


@pytest.fixture(params=bundled("topology"))
def topology(request: pytest.FixtureRequest) -> Topology:
    return Topology.load(bundled("topology")[request.param])


def test_mermaid_has_a_node_for_each_device_and_switch_and_a_line_for_each_link(topology: Topology) -> None:
    first, *lines = mermaid(topology).splitlines()
    assert first == "flowchart LR"
    nodes = {
        found[1]: found[2]
        for line in lines
        if (found := re.fullmatch(r'    (n\d+)(?:\["|\(\(")(.+)(?:"\]|"\)\))', line))
    }
    assert len(nodes) == len(topology.devices) + len(topology.switches)
    for device in topology.devices:
        assert sum(label.split("<br>")[0].split(" ")[0] == device.name for label in nodes.values()) == 1
    links = [re.fullmatch(r'    (n\d+) ---(?:\|".+"\|)? (n\d+)', line) for line in lines]
    assert sum(link is not None and link[1] in nodes and link[2] in nodes for link in links) == len(edges(topology))
    assert sum("(source)" in line for line in lines) == 1


def test_graphviz_has_every_node_and_link(topology: Topology) -> None:
    text = graphviz(topology)
    assert text.startswith(f'graph "{topology.name}" {{') and text.endswith("}\n")
    assert text.count(" -- ") == len(edges(topology))
    for device in topology.devices:
        assert f'    "{device.name}" [label="{device.name}' in text


def test_every_node_has_a_place_of_its_own(topology: Topology) -> None:
    where = positions(topology)
    assert set(where) == {*topology.switches, *(device.name for device in topology.devices)}
    places = list(where.values())
    apart = [math.dist(one, other) for number, one in enumerate(places) for other in places[:number]]
    assert min(apart) > 0.2


@pytest.mark.parametrize(("form", "begin"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_a_picture_is_drawn(tmp_path: Path, form: str, begin: bytes) -> None:
    out = tmp_path / "topology"
    draw(Topology.load(bundled("topology")["two-tier6"]), out, form)
    assert out.read_bytes().startswith(begin)


def test_directions_that_differ_are_both_told() -> None:
    link = {cable.name: cable.link for cable in Topology.load(bundled("topology")["two-tier6"]).links}["c"]
    assert link_lines(link) == ["50 Mbit/s up", "100 Mbit/s down", "500 us"]


def test_the_suffix_says_the_format(tmp_path: Path, capsys: Captured) -> None:
    assert run(["topologies", "graph", "star4"]) == 0
    assert capsys.readouterr().out.startswith("flowchart LR\n")
    for name, begin in (("a.mmd", b"flowchart"), ("b.dot", b"graph"), ("c.png", b"\x89PNG")):
        assert run(["topologies", "graph", "star4", "--out", str(tmp_path / name)]) == 0
        assert (tmp_path / name).read_bytes().startswith(begin)
    capsys.readouterr()
    assert run(["topologies", "graph", "star4", "--out", "x.jpeg"]) == 2
    assert "its suffix must be one of .mmd" in capsys.readouterr().err
    assert run(["topologies", "graph", "star4", "--format", "png"]) == 2
    assert "with --out star4.png" in capsys.readouterr().err
