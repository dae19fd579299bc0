"""The emulated cells cover every stratum, and their collection can be stopped, goes on, and outlives failures."""

import itertools
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.results import emulated, emulated_cells, emulated_tables
from benchmarks.results.emulated import Run, planned
from benchmarks.results.store import Parts
from testbed.errors import RunFailed

CELLS = emulated_cells.load()


def test_there_is_a_cell_for_each_stratum_and_for_the_papers_small_setting() -> None:
    keys = [(cell.model, cell.devices, cell.memory, cell.context) for cell in CELLS]
    strata = itertools.product(
        emulated_cells.DRAWN_MODELS, emulated_cells.DEVICES, emulated_cells.MEMORIES, emulated_cells.PROMPT_TOKENS
    )
    drawn = [key for key in keys if key[0] != emulated_cells.PAPER]
    assert sorted(drawn) == sorted(strata)
    assert len(keys) - len(drawn) == len(emulated_cells.PAPER_DEVICES) * emulated_cells.PAPER_SEEDS
    assert len({cell.key for cell in CELLS}) == len(CELLS)


def test_some_loose_cells_have_a_large_predicted_gain_and_twelve_cells_are_repeated() -> None:
    loose = [cell for cell in CELLS if cell.memory == "loose" and cell.model != emulated_cells.PAPER]
    assert sum(cell.gain >= emulated_cells.GAIN for cell in loose) >= 6
    assert [cell.repetitions for cell in CELLS if cell.repetitions > 1] == [3] * 12


def test_a_cell_at_lifes_pace_is_one_that_the_host_keeps_up_with() -> None:
    cell = next(cell for cell in CELLS if cell.dilation == 1 and cell.devices == 4)
    assert all(emulated_cells.foresee(cell.experiment(policy)).held for policy in cell.policies)


def row(run: Run, emulated_ms: float = 100.0) -> dict[str, Any]:
    return {
        "status": "done", "reason": "", "emulated_ms": emulated_ms, "predicted_ms": 99.0, "lowest_ms": 98.0,
        "highest_ms": 102.0, "token_error": 0.01, "ttft_ms": 300.0, "migrations": 0, "held": True,
        "verdict_ok": emulated_ms < 105, "notes": "",
    }  # fmt: skip


def test_a_stopped_collection_goes_on_and_tries_a_failed_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, runs, tried = Parts(tmp_path), planned(CELLS[:2]), []

    def fails_first(run: Run, folder: Path) -> dict[str, Any]:
        tried.append(run)
        if len(tried) == 1:
            raise RunFailed("device d1 ran out of memory")
        if len(tried) == 3:
            raise KeyboardInterrupt
        return row(run)

    monkeypatch.setattr(emulated, "measured", fails_first)
    with pytest.raises(KeyboardInterrupt):
        emulated.collect(parts, runs, None)
    assert tried == runs[:3]
    failed = parts.find(runs[0].key)
    assert failed and failed[0]["reason"] == "RunFailed: device d1 ran out of memory"
    assert emulated.missing(parts, runs) == [runs[0], *runs[2:]]
    emulated.collect(parts, runs, None)
    assert emulated.missing(parts, runs) == []
    assert tried[3:] == [runs[0], *runs[2:]]


def test_both_policies_of_a_cell_run_one_after_the_other() -> None:
    runs = planned(CELLS)
    assert len(runs) == sum(2 * cell.repetitions for cell in CELLS)
    assert all(one.cell == other.cell and one.repetition == other.repetition
               for one, other in zip(runs[::2], runs[1::2], strict=True))  # fmt: skip
    assert {runs[0].policy, runs[1].policy} == set(runs[0].cell.policies)


def test_a_ratios_error_is_zero_if_both_policies_are_off_by_the_same_share(tmp_path: Path) -> None:
    parts, runs = Parts(tmp_path), planned(CELLS[:1])[:2]
    for run in runs:
        parts.put(run.key, [row(run, 110.0) | {"cell": run.cell.key, "policy": run.policy, "repetition": 0}], 1.0)
    pair = emulated_tables.pairs_of(pd.DataFrame(emulated.rows(parts, runs))).iloc[0]
    assert pair["error"] == pytest.approx(99 / 110 - 1)
    assert pair["ratio_error"] == pytest.approx(0)
    assert not pair["faithful"]
