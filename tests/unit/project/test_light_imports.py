"""What is quick to load stays so: the heavy packages are imported only where they are needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
EXPERIMENT = str(ROOT / "experiments" / "gpt2-star4.yaml")
HEAVY = "torch pandas matplotlib zmq mininet"


@pytest.mark.parametrize(
    ("program", "heavy"),
    [
        ("import topologies.model, topologies.mininet_adapter, traces.formats, traces.bundled", "numpy pydantic"),
        (f"from testbed.experiment.schema import Experiment; Experiment.load({EXPERIMENT!r})", "transformers"),
        (
            "from testbed.cli import run;"
            f"assert run(['replay', {EXPERIMENT!r}, '--backend', 'sim', '--tokens', '8']) == 0",
            "numba",
        ),
    ],
    ids=["topologies and traces", "an experiment", "a run without arithmetic"],
)
def test_nothing_heavy_is_loaded_for(program: str, heavy: str, tmp_path: Path) -> None:
    code = f"{program}\nimport sys; sys.exit(', '.join({{*{(HEAVY + ' ' + heavy).split()}}} & {{*sys.modules}}) or 0)"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
