"""A device with a third of the heads dies: with replicas only the newest rows are recomputed, with the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from host_pace import judging_time
from live_runs import digests
from lossy_runs import losing, recovered_s, recovery
from running import Place

SIZES: dict[str, Any] = {"prompt": 300, "tokens": 30, "dies_at": 22, "layers": 2, "vocab": 1024}


@pytest.mark.quiet
def test_both_ways_of_recovery_take_what_the_twin_predicts_and_change_no_bit(place: Place, tmp_path: Path) -> None:
    found = {}  # in the last runs, rows are where the heads go, or travel there
    for method, policy in (("recompute", "Thirds"), ("replicate", "Thirds"), ("replicate", "Turning")):
        experiment = losing(tmp_path, method, policy=policy, **SIZES)
        run = place.done(experiment, "--backend", "mininet")
        row = recovery(run)
        twin = recovery(place.replay(experiment, "--backend", "sim"))
        assert row["rows"] + row["kept_rows"] == SIZES["prompt"] + SIZES["dies_at"] - 1
        found[method, policy] = row, twin, digests(run)
    (slow, _, bits), *others = found.values()
    assert slow["kept_rows"] == 0
    assert all(same == bits for *_, same in others)
    with judging_time():
        assert all(fast["rows"] <= 3 for fast, *_ in others)
        for row, twin, _ in found.values():
            assert row["rebuilt_s"] - row["committed_s"] == pytest.approx(row["predicted_s"], rel=0.2, abs=0.02)
            assert recovered_s(row) == pytest.approx(recovered_s(twin), rel=0.2, abs=0.05)
        assert all(recovered_s(fast) < 0.5 * recovered_s(slow) for fast, *_ in others)
