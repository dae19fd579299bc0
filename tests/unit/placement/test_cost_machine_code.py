"""Compiled functions come from a library that is made once, and anew when a file that they take parts from changes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from testbed.placement.cost import kernel, machine_code
from testbed.placement.cost.machine_code import smallest_observation
from testbed.placement.cost.tables import demand_of, network_of, tables_of


def told_by(program: str) -> str:
    """What a process of its own prints."""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_decisions_load_no_numba() -> None:
    program = (
        "import sys\n"
        "from testbed.placement.cost.machine_code import smallest_observation\n"
        "from testbed.placement.annealing import search\n"
        "from testbed.placement.local import sweep\n"
        "search.warm_up(); sweep.warm_up()\n"
        "print({'numba', 'llvmlite'} & set(sys.modules))"
    )
    assert told_by(program) == "set()\n"


def test_without_a_linker_each_process_compiles_for_itself() -> None:
    program = (
        "from testbed.placement.cost import machine_code\n"
        "machine_code._digest = lambda: 'no such library'\n"
        "machine_code.find_program = lambda name: None\n"
        "print(machine_code.compiled(lambda x: x + 1)(41))"
    )
    assert told_by(program) == "42\n"


def test_a_change_in_any_file_that_functions_take_parts_from_asks_for_another_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_code, "_PLACEMENT", tmp_path)
    digests = {machine_code._digest()}
    for folder in machine_code.FOLDERS:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "numbers.py").write_text("FACTOR = 2\n")
        digests.add(machine_code._digest())
    (tmp_path / "cost/numbers.py").write_text("FACTOR = 3\n")
    digests.add(machine_code._digest())
    assert len(digests) == 2 + len(machine_code.FOLDERS)


def test_a_function_refuses_what_it_was_not_compiled_for() -> None:
    tables = tables_of([(network_of(smallest_observation()), [demand_of(1.0, [1.0], [[0.0, 0.0]], [[0.0, 0.0]])])])
    nobody = np.zeros(0, np.int32)
    with pytest.raises(TypeError, match=r"_batch was compiled for .*, and is called with .*<i4"):
        kernel._batch(tables, nobody, nobody, np.zeros((0, 2), np.int64), kernel.scratch_for(tables), np.zeros(0))
