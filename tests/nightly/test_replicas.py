"""A device with a third of GPT-2's heads dies at 500 tokens of context, with and without replicas of its caches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lossy_runs import losing, recovered_s, recovery
from running import Place

SIZES: dict[str, Any] = {"prompt": 460, "tokens": 56, "dies_at": 40, "layers": 12}


@pytest.mark.quiet
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("method", "policy"), [("recompute", "Thirds"), ("replicate", "Thirds"), ("replicate", "Turning")]
)
def test_the_recovery_of_a_third_of_the_heads_takes_what_the_twin_predicts(
    method: str, policy: str, place: Place, tmp_path: Path
) -> None:
    experiment = losing(tmp_path, method, policy=policy, **SIZES)
    row = recovery(place.done(experiment, "--backend", "mininet", timeout=400))
    twin = recovery(place.replay(experiment, "--backend", "sim"))
    assert row["rebuilt_s"] - row["committed_s"] == pytest.approx(row["predicted_s"], rel=0.2)
    assert recovered_s(row) == pytest.approx(recovered_s(twin), rel=0.2)
    assert (row["kept_rows"] > 450) == (method == "replicate")
