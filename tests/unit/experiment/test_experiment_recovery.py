"""The section of an experiment on what happens when a device is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.errors import ConfigError
from testbed.experiment.schema import Experiment

QUICKSTART = Path(__file__).parents[3] / "experiments/quickstart.yaml"


def test_a_wrong_time_is_refused_with_its_key_and_file() -> None:
    with pytest.raises(ConfigError, match=r"quickstart.yaml .*recovery\.suspect_after: '-3s' is not a duration"):
        Experiment.load(QUICKSTART, ["recovery.suspect_after=-3s"])


def test_a_time_may_have_a_unit() -> None:
    assert Experiment.load(QUICKSTART, ["recovery.suspect_after=5 s"]).recovery.suspect_after == 5.0
