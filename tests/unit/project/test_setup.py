"""What `script/setup` takes its own stamp's word for, and what a copy of the tree to a virtual machine leaves alone."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# Stands in for the venv's Python: notes what it is asked for, and leaves libraries where they would be.
PYTHON = """#!/bin/sh
echo "$@" >>"{log}"
case "$*" in
*"-m testbed.placement.cost.machine_code"*) mkdir -p {cache} && touch {cache}/search-1.so ;;
*"-m testbed.decoder.compiled"*) mkdir -p {kernels} && touch {kernels}/kernels-1.so ;;
esac
"""
CACHE, SITE_PACKAGES = "testbed/placement/__pycache__", ".venv/lib/python3.11/site-packages"
KERNELS = "testbed/decoder/__pycache__"
INSTALLED, COMPILED_KERNELS = "--editable", "-m testbed.decoder.compiled"
COMPILED = "-m testbed.placement.cost.machine_code"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with all that set-up goes by, set up once."""
    for name in ("setup.cfg", "pyproject.toml", "constraints.txt", "script/setup"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for folder in ("testbed/placement/cost", "testbed/decoder", ".venv/bin", f"{SITE_PACKAGES}/numpy"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "testbed/placement/cost/kernel.py").write_text("# compiled")
    for name in ("kernels.c", "kernels_body.h"):
        (tmp_path / "testbed/decoder" / name).write_text("// compiled")
    for name in ("python", "testbed"):
        program = tmp_path / ".venv/bin" / name
        program.write_text(PYTHON.format(log=tmp_path / "asked", cache=tmp_path / CACHE, kernels=tmp_path / KERNELS))
        program.chmod(0o755)
    assert done_by_setup(tree=tmp_path) == {INSTALLED, COMPILED, COMPILED_KERNELS}
    return tmp_path


def done_by_setup(*extras: str, tree: Path) -> set[str]:
    """What `script/setup` does in a tree: packages installed, the search and the kernels compiled."""
    (tree / "asked").write_text("")
    subprocess.run([tree / "script/setup", *extras], check=True, capture_output=True)
    asked = (tree / "asked").read_text()
    return {what for what in (INSTALLED, COMPILED, COMPILED_KERNELS) if what in asked}


def test_repeated_it_does_nothing(tree: Path) -> None:
    assert done_by_setup(tree=tree) == set()


LOSSES: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "the compiled search": (lambda tree: shutil.rmtree(tree / CACHE), {COMPILED}),
    "what the search was compiled from": (
        lambda tree: (tree / "testbed/placement/cost/kernel.py").write_text("# changed"), {COMPILED},
    ),
    "the compiled kernels": (lambda tree: shutil.rmtree(tree / KERNELS), {COMPILED_KERNELS}),
    "what the kernels were compiled from": (
        lambda tree: (tree / "testbed/decoder/kernels_body.h").write_text("// changed"), {COMPILED_KERNELS},
    ),
    "a package": (lambda tree: (tree / f"{SITE_PACKAGES}/numpy").rmdir(), {INSTALLED}),
    "the system's Python, by an upgrade": (
        lambda tree: (tree / ".venv/bin/python").rename(tree / ".venv/bin/python3.13")
        and (tree / ".venv/bin/python").symlink_to("python3.13"), {INSTALLED},
    ),
    "the command": (lambda tree: (tree / ".venv/bin/testbed").unlink(), {INSTALLED}),
    "the pinned versions": (lambda tree: (tree / "constraints.txt").write_text(""), {INSTALLED}),
}  # fmt: skip


@pytest.mark.parametrize("lost", LOSSES)
def test_what_is_gone_or_changed_is_made_again_and_nothing_else(lost: str, tree: Path) -> None:
    lose, mended = LOSSES[lost]
    lose(tree)
    assert done_by_setup(tree=tree) == mended


def test_what_is_left_for_later_is_compiled_then(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(tree / CACHE)
    shutil.rmtree(tree / KERNELS)
    monkeypatch.setenv("HEADROOM_COMPILE", "later")
    assert done_by_setup(tree=tree) == set()
    monkeypatch.delenv("HEADROOM_COMPILE")
    assert done_by_setup(tree=tree) == {COMPILED, COMPILED_KERNELS}


def test_a_search_that_could_not_be_compiled_is_tried_again(tree: Path) -> None:
    shutil.rmtree(tree / CACHE)
    python = tree / ".venv/bin/python"
    whole = python.read_text()
    python.write_text(whole.replace("case", "exit 1; case"))
    subprocess.run([tree / "script/setup"], capture_output=True)
    python.write_text(whole)
    assert COMPILED in done_by_setup(tree=tree)


def test_kernels_that_cannot_be_compiled_end_it_with_one_sentence(tree: Path) -> None:
    shutil.rmtree(tree / KERNELS)
    python = tree / ".venv/bin/python"
    failing = 'case "$*" in *compiled*) echo "Error: no gcc" >&2; exit 3 ;; esac; case'
    python.write_text(python.read_text().replace("case", failing))
    done = subprocess.run([tree / "script/setup"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (3, "Error: no gcc")


def test_vagrant_leaves_alone_in_the_machine_whatever_git_ignores() -> None:
    ruby = (ROOT / "Vagrantfile").read_text()
    assert re.search(r'rsync__exclude: .*File.readlines\(File.join\(__dir__, ".gitignore"\), chomp: true\)', ruby)
    ignored = (ROOT / ".gitignore").read_text().split("\n")
    assert {"__pycache__/", "*.egg-info/", ".venv", "runs/"} <= set(ignored)
    assert not [line for line in ignored if line.startswith(("#", "!"))]  # which rsync would take for names
