"""What `script/setup` installs: pinned, complete, and found without an import hook."""

from __future__ import annotations

import ast
import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


@pytest.fixture(scope="module")
def pinned() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    versions = dict(line.split("==") for line in lines)
    return {name.lower().replace("_", "-"): version for name, version in versions.items()}


def names(requirements: str) -> list[str]:
    return [re.split(r"[<>=!~ \[]", line)[0].lower() for line in requirements.split()]


def imports(file: Path) -> list[str]:
    """Modules that a file imports, at its top or inside a function."""
    modules: list[str] = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.append(node.module)
    return modules


def test_every_requirement_has_an_exact_version(setup_cfg: configparser.ConfigParser, pinned: dict[str, str]) -> None:
    wanted = names(setup_cfg["options"]["install_requires"])
    for extra in setup_cfg["options.extras_require"].values():
        wanted += names(extra)
    assert [name for name in wanted if name not in pinned] == []


def test_torch_is_pinned_without_a_local_tag_and_as_script_setup_installs_it(pinned: dict[str, str]) -> None:
    assert re.fullmatch(r"[\d.]+", pinned["torch"])
    assert f"TORCH={pinned['torch']}\n" in (ROOT / "script/setup").read_text()


def test_the_packages_that_are_required_are_those_that_are_imported(setup_cfg: configparser.ConfigParser) -> None:
    provides = {"yaml": "pyyaml", "zmq": "pyzmq", "huggingface_hub": "huggingface-hub"}
    required = names(setup_cfg["options"]["install_requires"])
    ours = {"testbed", "topologies", "traces", "analysis", "mininet"}  # mininet comes from the distribution
    files = [file for package in sorted(ours - {"mininet"}) for file in (ROOT / package).rglob("*.py")]
    imported = {module.partition(".")[0] for file in files for module in imports(file)}
    outside = imported - ours - sys.stdlib_module_names - {"llama_cpp"}  # which `profile` finds where it is built
    assert {provides.get(name, name) for name in outside} == set(required)


def test_every_folder_with_python_files_is_a_package() -> None:
    tops = ("testbed", "topologies", "traces", "analysis")
    folders = {file.parent for top in tops for file in (ROOT / top).rglob("*.py")}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


SHELL_SCRIPTS = sorted(file for file in (ROOT / "script").iterdir() if file.is_file() and file.suffix != ".py")


@pytest.mark.parametrize("script", [*SHELL_SCRIPTS, ROOT / ".ci/run"], ids=lambda path: path.name)
def test_a_script_is_executable_and_parses(script: Path) -> None:
    assert script.stat().st_mode & 0o111 or script.name == "parts", "only what others source is not executable"
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


def test_a_skipped_emulation_test_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        (ROOT / "tests/emulation/conftest.py").read_text().replace("os.geteuid() != 0", "False")
    )
    (tmp_path / "test_one.py").write_text(
        "import pytest\n"
        "def test_skips(): pytest.skip('no netem')\n"
        "@pytest.mark.skipif(True, reason='no cgroup')\n"
        "def test_skips_by_mark(): pass\n"
        "@pytest.mark.xfail(strict=True, reason='known')\n"
        "def test_expected(): assert False\n"
        "def test_runs(): pass\n"
    )
    (tmp_path / "test_two.py").write_text("import pytest\npytest.skip('no mininet', allow_module_level=True)\n")
    arguments = ["-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(tmp_path), str(tmp_path)]
    arguments += ["-o", "timeout=60", "--continue-on-collection-errors"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests/support")},  # what the conftest imports
    )  # fmt: skip
    assert done.returncode == 1, done.stdout
    assert "1 failed, 1 passed, 1 xfailed, 2 errors" in done.stdout, done.stdout
    assert "may not be skipped" in done.stdout and "no netem" in done.stdout
