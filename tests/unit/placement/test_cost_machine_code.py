"""Machine code is kept where it can be, and compiled anew when any file that it takes parts from has changed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_machine_code_needs_no_writable_folder(tmp_path):
    """With every place for the cache refused, functions are still compiled and answer."""
    lines = [
        "import numba.core.caching as caching",
        "caching.CacheImpl._locator_classes = []",
        "from testbed.placement.cost.machine_code import compiled",
        "print(compiled(lambda x: x + 1)(41))",
    ]
    ran = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, env=os.environ, check=True
    )
    assert ran.stdout.strip() == "42"


def test_a_changed_number_in_another_file_is_compiled_anew(tmp_path: Path) -> None:
    (tmp_path / "whole.py").write_text(
        "from numbers_of_it import FACTOR\n"
        "from testbed.placement.cost.machine_code import compiled\n"
        "@compiled\n"
        "def times(x):\n"
        "    return FACTOR * x\n"
        "print(times(7), len(times.stats.cache_hits))\n"
    )
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    # Python's own cache would not notice a change within a second.
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    answers = []
    for factor in (2, 2, 3):
        (tmp_path / "numbers_of_it.py").write_text(f"FACTOR = {factor}\n")
        ran = subprocess.run(
            [sys.executable, "-c", "import whole"], capture_output=True, text=True, env=environment, check=True
        )
        answers.append(ran.stdout.strip())
    assert answers == ["14 0", "14 1", "21 0"]
