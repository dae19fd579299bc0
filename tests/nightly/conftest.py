"""Long tests, which `script/nightly` runs. They use the emulation tests' ways of starting and watching runs."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from running import Place, short_place


@pytest.fixture(autouse=True)
def needs_root() -> None:
    """Fail in one sentence where the test could only fail in many."""
    if os.geteuid() != 0:
        pytest.fail("these tests need root: run `sudo .venv/bin/python -m pytest tests/nightly`", pytrace=False)


@pytest.fixture
def place() -> Iterator[Place]:
    """Folders of its own for a test's runs."""
    with short_place() as made:
        yield made
