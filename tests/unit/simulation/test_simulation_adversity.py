"""Drawn experiments with odd faults: a simulated run ends well or in one sentence, and its tables fit together."""

from __future__ import annotations

from pathlib import Path

import pytest
from adversity import drawn, simulated

from testbed.experiment.schema import Experiment

SEARCHED = ("headroom", "static", "paper", "paper-search", "exact", "layerwise", "edgeshard", "dynamic-threshold")
CASES = 48


@pytest.mark.parametrize("first", range(0, CASES, 8))
def test_whatever_is_lost_no_token_and_no_block_is_and_the_tables_agree(tmp_path: Path, first: int) -> None:
    for seed in range(first, first + 8):
        mapping = drawn(seed, tmp_path)
        if mapping["policy"] in SEARCHED:  # policies that search take their time, and are tested elsewhere
            mapping["policy"] = "round-robin"
        outcome, wrong, _ = simulated(Experiment.from_dict(mapping), tmp_path / str(seed))
        assert not wrong, (seed, outcome.status, outcome.error, wrong)
