"""The notebook in docs: its cells run, and show what the notebook says that they show."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from notebooks import code_cells

ROOT = Path(__file__).resolve().parents[3]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


@pytest.mark.timeout(300)  # it may have to compile the search of the policies
def test_every_cell_of_the_notebook_shows_what_is_stored_below_it(tmp_path: Path) -> None:
    stored = json.loads(NOTEBOOK.read_text())
    copy = tmp_path / NOTEBOOK.name
    copy.write_text(NOTEBOOK.read_text())
    program = ROOT / "tests" / "support" / "notebooks.py"
    # Not with what `testbed calibrate` may have measured here, which simulated runs would take.
    environment = os.environ | {"TESTBED_CALIBRATION": str(tmp_path / "none.json"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(program), copy.name], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    again = json.loads(copy.read_text())
    for cell, fresh in zip(code_cells(stored), code_cells(again), strict=True):
        assert fresh["outputs"] == cell["outputs"], f"run tests/support/notebooks.py: {cell['source']}"
    assert (tmp_path / "report.html").stat().st_size > 500_000 and (tmp_path / "latency.svg").is_file()


def test_the_notebook_is_in_the_format_of_notebooks() -> None:
    stored = json.loads(NOTEBOOK.read_text())
    assert (stored["nbformat"], stored["nbformat_minor"]) == (4, 4)
    for cell in stored["cells"]:
        assert {"cell_type", "metadata", "source"} <= cell.keys()
        assert (cell["cell_type"] == "code") == ("outputs" in cell) == ("execution_count" in cell)
