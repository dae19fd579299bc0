"""Topology files, the generators of topologies, and quantities."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yamls import OTHER, overrides_of, yaml_like

from testbed import units
from testbed.bundled import find_file
from testbed.errors import TestbedError
from testbed.experiment.overrides import apply_override, parse_override
from testbed.strict_yaml import parse_yaml
from testbed.topologies.generate import DEFAULTS, KINDS, OF_KIND, ModelNeed, generate_topology
from testbed.topologies.model import Topology, describe, list_bundled

BUNDLED: list[Any] = [parse_yaml(Path(row["path"]).read_text(), row["name"]) for row in list_bundled()]
BARE = {"streaming": "1 GB/s", "compute": "8 GFLOP/s", "memory": "64 MiB", "storage": "90 MB/s"}
MADE: list[Any] = [
    {
        "shape": "mesh",
        "source": "a",
        "link": {"rate": "1 Mbit/s"},
        "devices": dict.fromkeys(("a", "b-c", "a-b", "c"), BARE),
    },
    {
        "shape": "random",
        "source": "a",
        "devices": dict.fromkeys("abcdef", BARE),
        "links": {"degree": 2.5, "seed": 3, "rate": ["5 Mbit/s", "200 Mbit/s"], "delay": ["0 ms", "1 ms"]},
    },
    {
        "shape": "two-tier",
        "source": "a",
        "backhaul": {"rate": "1 Mbit/s", "loss": "1 %", "delay": "2 ms", "jitter": "1 ms"},
        "devices": dict.fromkeys("abc", BARE | {"link": {"rate": "9 Mbit/s"}}),
        "clusters": {"one": ["a"], "two": ["b"], "three": ["c"]},
    },
]
NEED = ModelNeed(2**20, 2**26, lambda rooms: sum(rooms) >= 2**26)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("topology") / "net.yaml"


@given(content=yaml_like([*BUNDLED, *MADE]))
def fuzz_a_topology_file(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    check(Topology.load(find_file("topology", str(file))))


def check(topology: Topology) -> None:
    names = [link.name for link in topology.links]
    assert len(set(names)) == len(names)
    assert all(len(interface) <= 15 for _, interface in topology.interfaces.values())
    json.dumps(describe(topology), allow_nan=False)
    assert Topology.from_dict(json.loads(json.dumps(topology.to_dict()))) == topology
    for device in topology.devices:
        topology.route(topology.source, device.name) if device.name != topology.source else ()


@given(
    kind=st.sampled_from([*KINDS, "star", None, []]),
    devices=st.one_of(st.integers(0, 12), OTHER),
    settings=overrides_of({**DEFAULTS, **OF_KIND["two-tier"], **OF_KIND["mesh"]}, []),
    seed=st.integers(0, 2**53),
)
def fuzz_a_generated_topology(kind: Any, devices: Any, settings: list[str], seed: int) -> None:
    given: dict[str, Any] = {"devices": devices}
    for text in settings:
        apply_override(given, parse_override(text))
    check(Topology.from_dict(generate_topology(kind, given, seed, NEED, "generate"), "generate"))


PARSERS = [
    units.parse_rate,
    units.parse_bytes,
    units.parse_bandwidth,
    units.parse_compute,
    units.parse_duration,
    units.parse_fraction,
]


@given(
    value=OTHER, prefix=st.text("0123456789.eE+- ", max_size=12), unit=st.sampled_from([*units.RATE, *units.BYTES, "%"])
)
def fuzz_a_quantity(value: Any, prefix: str, unit: str) -> None:
    for parse in PARSERS:
        for text in (value, prefix + unit):
            try:
                assert 0 <= parse(text) <= 1e18
            except TestbedError as error:
                assert str(error).isprintable()
