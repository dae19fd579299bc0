"""Who imports whom around the library: read from the source, inside functions too."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.running.backends import BACKENDS

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "testbed").rglob("*.py"))
OUTER = ("analysis", "traces", "topologies", "benchmarks")


def imports(file: Path) -> Iterator[str]:
    """Modules that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, file
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(*names: str) -> list[str]:
    """Files of the package that import one of these, or something in it."""
    return [
        str(file.relative_to(ROOT / "testbed"))
        for file in FILES
        if any(found == name or found.startswith(f"{name}.") for found in imports(file) for name in names)
    ]


def test_nothing_in_the_package_imports_the_names_that_a_users_folder_may_have() -> None:
    assert importers(*OUTER) == []


def test_only_the_command_line_imports_the_command_line_and_click() -> None:
    assert [file for file in importers("testbed.cli", "click") if not file.startswith("cli/")] == ["__main__.py"]


def test_backends_are_compared_by_name_nowhere() -> None:
    def compared(file: Path) -> bool:
        nodes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Compare)]
        parts = [part for node in nodes for part in [node.left, *node.comparators]]
        return any(isinstance(part, ast.Constant) and part.value in BACKENDS for part in parts)

    assert [str(file.relative_to(ROOT)) for file in FILES if compared(file)] == []


@pytest.mark.parametrize("program", [["-m", "testbed", "--help"], ["-c", "import testbed"]], ids=" ".join)
def test_help_and_the_package_itself_load_nothing_heavy(program: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert not loaded & {"numpy", "torch", "pandas", "pyarrow", "zmq", "rich", "pydantic"}
