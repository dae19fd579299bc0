"""Generated instances: one for each seed, with room for the model, and whole in the manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from refusals import refusal

from testbed.cli import run
from testbed.experiment.schema import Experiment
from testbed.placement.blocks import blocks_of, pinned_bytes, resident_bytes
from testbed.placement.cost.packing import pack

EXPERIMENTS = Path(__file__).parents[3] / "experiments"


def made(**changes: Any) -> Experiment:
    base = {
        "model": {"preset": "tiny"}, "prompt": {"ids": [1, 2, 3]}, "tokens": 61,
        "topology": {"generate": "paper", "devices": 4, "memory": "1.4 x model"},
    }  # fmt: skip
    return Experiment.from_dict(base | changes)


def topology(**keys: Any) -> dict[str, Any]:
    return {"generate": "paper", "devices": 4, **keys}


def test_a_seed_gives_one_instance_and_another_seed_another() -> None:
    assert made(seed=3) == made(seed=3)
    drawn = [made(seed=seed).topology for seed in range(20)]
    assert len({one.devices for one in drawn}) == 20
    assert made(topology=topology(seed=5)).topology != made(topology=topology()).topology


@pytest.mark.parametrize("kind", ["paper", "two-tier", "mesh"])
@pytest.mark.parametrize("devices", [3, 5, 25])
def test_memory_is_so_many_times_what_the_blocks_need_at_the_last_token(kind: str, devices: int) -> None:
    drawn = topology(generate=kind, devices=devices, memory="1.4 x model")
    experiment = made(topology=drawn, partition={"ffn_shards": 4})
    shape, partition = experiment.shape, experiment.partition
    sizes = [resident_bytes(shape, block, 3 + 61 - 1, partition) for block in blocks_of(shape, partition)]
    pinned = pinned_bytes(shape, partition)
    budgets = [device.memory_bytes for device in experiment.topology.devices]
    assert len(budgets) == devices and experiment.topology.source == "d1"
    assert sum(budgets) - pinned == pytest.approx(1.4 * sum(sizes), rel=1e-5)
    rooms = [budget - (pinned if not number else 0) for number, budget in enumerate(budgets)]
    assert pack(rooms, [(size, 1) for size in sorted(sizes, reverse=True)]) is not None


def test_a_typed_memory_is_the_median_and_other_settings_are_used() -> None:
    settings = {"memory": "1 MiB", "spread": 0, "streaming": "2 GB/s", "rate": ["5 Mbit/s", "6 Mbit/s"]}
    drawn = made(topology=topology(**settings)).topology
    assert {device.memory_bytes for device in drawn.devices} == {2**20}
    assert {device.streaming_Bps for device in drawn.devices} == {2e9}
    assert all(device.link is not None and 5e6 <= device.link.up_bps <= 6e6 for device in drawn.devices)


def test_two_bounds_cut_what_is_drawn_around_their_geometric_mean() -> None:
    bounds = {"memory": ["1 MiB", "4 MiB"], "compute": ["5 GFLOP/s", "20 GFLOP/s"]}
    wide = made(topology=topology(**bounds, devices=100)).topology.devices
    assert {min(device.memory_bytes for device in wide), max(device.memory_bytes for device in wide)} == {2**20, 2**22}
    assert all(5e9 <= device.compute_flops <= 2e10 for device in wide)
    alike = made(topology=topology(**bounds, spread=0)).topology.devices
    assert {(device.memory_bytes, device.compute_flops) for device in alike} == {(2**21, 1e10)}


def test_what_is_drawn_is_whole_in_the_experiment_and_reads_back() -> None:
    experiment = made(seed=2, traces=[{"generate": "fluctuation", "target": "link/*"}])
    written = json.loads(json.dumps(experiment.to_dict()))
    assert "generate" not in json.dumps(written) and len(written["traces"][0]["changes"]) == 4 * 2 * 8
    assert Experiment.from_dict(written) == experiment


def test_links_fluctuate_each_on_its_own_and_by_seed() -> None:
    entry = {"generate": "fluctuation", "target": "link/*", "spread": 0.5, "least": 0.5, "most": 1.5}
    one, same, other = (made(seed=seed, traces=[entry], topology=topology(seed=1)) for seed in (1, 1, 2))
    assert one.traces == same.traces and one.traces != other.traces
    rows = one.traces.traces[0].rows
    links = {cable.name: cable.link for cable in one.topology.links}
    shares = {name: [value / links[name].up_bps for _, value in rows[f"link/{name}", "up"]] for name in links}
    assert len({tuple(share) for share in shares.values()}) == 4
    assert all(0.499 <= value <= 1.501 for share in shares.values() for value in share)
    assert rows["link/d1", "up"] == rows["link/d1", "down"]  # both directions of a link alike


def test_fluctuating_memory_leaves_the_source_what_is_pinned_there() -> None:
    entry = {"generate": "fluctuation", "target": "device/*", "quantity": "memory", "spread": 2, "least": 0.01}
    experiment = made(traces=[entry])
    rows = experiment.traces.traces[0].rows
    pinned = pinned_bytes(experiment.shape, experiment.partition)
    assert min(value for _, value in rows["device/d1", "memory"]) >= pinned
    for device in experiment.topology.devices:
        values = [value for _, value in rows[f"device/{device.name}", "memory"]]
        assert max(values) <= device.memory_bytes and len(set(values)) > 1


def test_any_trace_generator_can_be_named() -> None:
    entry = {"generate": "outage", "target": "link/d2", "rate": "50 Mbit/s", "at": 16, "duration": 8}
    assert made(traces=[entry]).traces.at(20)["link/d2", "up"] == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"topology": {"generate": "papers", "devices": 4}}, "did you mean 'paper'"),
        ({"topology": {"generate": "paper"}}, "the key 'devices' is missing"),
        ({"topology": topology(device=3)}, "did you mean 'devices'"),
        ({"topology": topology(devices=0)}, "devices is 0"),
        ({"topology": topology(spread=5)}, "spread is 5"),
        ({"topology": topology(memory="much")}, "memory (a size, two bounds, or like '1.4 x model')"),
        ({"topology": topology(memory="0.9 x model")}, "never fitted"),
        ({"topology": topology(memory=["2 GB", "1 GB"])}, "the lower bound must come first"),
        ({"topology": topology(compute=["2 GFLOP/s"])}, "it must be one value or two bounds"),
        ({"topology": topology(rate=["2 Mbit/s", "1 Mbit/s"])}, "the lower bound must come first"),
        ({"topology": {"generate": "two-tier", "devices": 2, "clusters": 3}}, "clusters is 3, but devices is 2"),
        (
            {
                "topology": {"generate": "mesh", "devices": 1},
                "traces": [{"generate": "fluctuation", "target": "link/*"}],
            },
            "traces.0: target is link/*, but topology mesh-1 has no link",
        ),
        ({"traces": [{"generate": "fluctuations", "target": "link/*"}]}, "did you mean 'fluctuation'"),
        ({"traces": [{"generate": "fluctuation"}]}, "traces.0.target is nothing"),
        ({"traces": [{"generate": "fluctuation", "target": "link/x"}]}, "has no link/x"),
        ({"traces": [{"generate": "fluctuation", "target": "link/*", "spred": 1}]}, "no option 'spred'"),
        ({"traces": [{"generate": "fluctuation", "target": "link/*", "step": 0}]}, "step of a fluctuation is 0"),
        ({"model": {"preset": "tinyllama-1.1b", "heads": 12}, "prompt": {"ids": [1]}}, "heads is 12"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(changes: dict[str, Any], words: str) -> None:
    refusal(lambda: made(**changes), words)


def test_the_overrides_of_a_generated_topology_reach_the_generator() -> None:
    experiment = Experiment.load(EXPERIMENTS / "small-scale.yaml", ["topology.devices=5", "model.heads=8"])
    assert len(experiment.topology.devices) == 5 and experiment.shape.heads == 8 and experiment.shape.width == 512


def test_topologies_generate_writes_a_file_that_reads_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "four.yaml"
    command = ["topologies", "generate", "two-tier", "--devices", "4", "--set", "memory=2 x model", "--out", str(path)]
    assert run(command) == 0 and run([*command[:-1], str(tmp_path / "again.yaml")]) == 0
    assert path.read_text() == (tmp_path / "again.yaml").read_text()
    assert run(["topologies", "show", str(path)]) == 0
    capsys.readouterr()
    assert run([*command[:3], "--devices", "0"]) == 2
