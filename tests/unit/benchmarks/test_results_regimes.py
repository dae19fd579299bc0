"""The regime map's cells are experiments that replay to the figures of the map."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.results import grid, regime_tables, regimes, traced
from benchmarks.results.cells import GRID, experiment_of, load, shuffled
from benchmarks.results.class_search import HeadsTogether
from benchmarks.results.play import play
from benchmarks.results.store import Parts
from testbed.controller.calibration import NOMINAL
from testbed.experiment.schema import Experiment
from testbed.placement.policies import make_policy
from testbed.running.carry_out import carry_out
from testbed.running.remarks import tell_nobody
from testbed.running.request import RunRequest

SMALL = {"model": {"preset": "tiny"}, "prompt": "Where to?", "tokens": 24, "interval": 8}


def simulated(experiment: Experiment, folder: Path) -> dict[str, object]:
    return carry_out(RunRequest(experiment, "sim", folder, calibrate="off"), tell_nobody, NOMINAL)


@pytest.mark.parametrize("policy", ["paper-search", "layerwise", "round-robin"])
@pytest.mark.parametrize("traces", [[], [traced.LINKS, traced.SPEEDS]])
def test_a_cell_played_here_costs_what_the_simulator_says(policy: str, traces: object, tmp_path: Path) -> None:
    number = next(cell for cell in shuffled() if GRID[cell].memory == "tight")
    changes = {key: value for key, value in SMALL.items() if key not in ("model", "prompt")}
    mapping = experiment_of(number) | {"model": {"preset": "gpt2", "layers": 8}, **changes, "traces": traces}
    experiment = Experiment.from_dict(mapping | {"policy": policy}, "cell")
    summary = simulated(experiment, tmp_path)
    played = play(experiment, make_policy(policy, {}))
    assert played.status == summary["status"] == "done"
    assert played.cost_ms == pytest.approx(summary["mean_token_with_stall_ms"], rel=1e-3)


def test_static_is_the_best_first_placement_of_all_others() -> None:
    experiment = Experiment.from_dict(experiment_of(0) | SMALL | {"interval": 24}, "cell")
    costs = [play(experiment, make_policy(name, {})).cost_ms for name in ("headroom", *traced.RIVALS)]
    assert play(experiment, make_policy("static", {})).cost_ms == pytest.approx(min(costs))


@pytest.mark.parametrize("memory", ["5 x model", "1.4 x model"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_best_with_heads_together_is_the_optimum_of_its_class(seed: int, memory: str) -> None:
    file = Path(__file__).parents[3] / "experiments" / "small-scale.yaml"
    changes = ["partition.ffn_shards=4", "traces=[]", "tokens=8", "interval=8", f"topology.memory={memory}"]
    experiment = Experiment.load(file, [*changes, f"seed={seed}", f"model.layers={1 + seed % 2}", "model.heads=8"])
    exact = play(experiment, make_policy("exact", {"class": "shard"}))
    assert exact.status == "done" and not exact.unproven
    assert play(experiment, HeadsTogether()).cost_ms == pytest.approx(exact.cost_ms, rel=1e-3)


def test_the_grid_is_whole_and_its_order_a_permutation(tmp_path: Path) -> None:
    assert len(GRID) == len(set(GRID)) == 3240
    assert sorted(shuffled()) == list(range(3240))
    parts = [one.key for group in grid.work(Parts(tmp_path)) for one in group]
    assert len(parts) == len(set(parts))


def test_a_loose_cell_has_the_whole_model_on_every_device() -> None:
    for number in shuffled()[:20]:
        if GRID[number].memory == "loose":
            experiment = load(number)
            for device in experiment.topology.devices:
                placed = play(experiment, make_policy("static", {}, {"*": device.name}))
                assert placed.status == "done", placed.reason


def test_a_printed_cell_is_an_experiment(tmp_path: Path) -> None:
    for words, wanted in (
        (["--cell", "17"], experiment_of(17)),
        (["--traced", "3", "2"], traced.traced_experiment(3, 2)),
    ):
        command = [sys.executable, "-m", "benchmarks.results.regimes", *words]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert json.loads(printed) == wanted
        file = tmp_path / "cell.yaml"
        file.write_text(printed)
        assert Experiment.load(file) == Experiment.from_dict(wanted, wanted["name"])


def cell_rows(gain: float, head_gain: float, roomy_gain: float | None, memory: str) -> pd.DataFrame:
    keys = GRID[0]._asdict() | {"memory": memory, "cell": 0, "part": "cell", "status": "done"}
    times = {("headroom", 8): 100.0, ("layerwise", 8): 100.0 * gain, ("headroom", 1): 100.0 * gain / head_gain}
    times |= {(name, 8): 1000.0 for name in (*traced.RIVALS, "static") if name != "layerwise"}
    times |= {(name, 1): 1000.0 for name in ("single", "edgeshard", "layerwise")}
    if roomy_gain is not None:
        times |= {("headroom" + grid.LIFTED, 8): 10.0, ("layerwise" + grid.LIFTED, 8): 10.0 * roomy_gain}
    return pd.DataFrame([keys | {"policy": name, "ffn_shards": n, "token_ms": ms} for (name, n), ms in times.items()])


@pytest.mark.parametrize(
    ("gain", "head_gain", "roomy_gain", "memory", "cause"),
    [
        (1.1, 1.1, None, "loose", None),
        (1.5, 1.2, None, "loose", "heads"),
        (1.5, 1.1, None, "loose", "FFN shards"),
        (1.5, 1.5, 1.0, "tight", "packing by heads"),
        (1.5, 1.1, 1.0, "tight", "packing by FFN shards"),
        (1.5, 1.1, 1.4, "tight", "FFN shards"),
    ],
)
def test_a_gain_has_the_cause_that_explains_it(
    gain: float, head_gain: float, roomy_gain: float | None, memory: str, cause: str | None
) -> None:
    cell = regime_tables.cells_of(cell_rows(gain, head_gain, roomy_gain, memory)).iloc[0]
    assert cell["gain"] == pytest.approx(gain)
    assert cell["cause"] == cause


def test_a_repeated_collection_does_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []

    def compute(number: int) -> list[dict[str, int]]:
        done.append(number)
        return [{"cell": number}]

    one, two = (regimes.Work(f"part-{n}", lambda n=n: compute(n)) for n in (1, 2))  # type: ignore[misc]
    monkeypatch.setattr(regimes, "work", lambda parts: [one, two])
    parts = Parts(tmp_path)
    regimes.collect(parts, -1.0)
    assert done == []
    parts.put("part-1", [{"cell": 1}], 0.0)
    regimes.collect(parts, None)
    assert done == [2]
