"""Whether a run is going on, as far as can be known from outside it."""

from __future__ import annotations

from pathlib import Path

from testbed.errors import EnvironmentLacks


def is_up(folder: Path) -> bool:
    """Whether an emulated run that writes to this folder has a living controller; simulated runs leave no trace."""
    from testbed.emulation.state_files import find_live

    try:
        return find_live(folder.resolve()) is not None
    except EnvironmentLacks:  # without a runtime folder nothing is up
        return False
