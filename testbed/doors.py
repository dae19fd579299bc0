"""Makes the top-level packages `analysis`, `traces` and `topologies` lead to `testbed.analysis` and so on.

The project's layout asks for top-level folders of these names. Nothing inside `testbed` imports them, so a user's own
`analysis` cannot get in the way.
"""

from __future__ import annotations

import pkgutil
import sys
from importlib import import_module


def open_door(name: str) -> None:
    """Make the top-level package `name` and every module in it the same objects as those of `testbed.NAME`."""
    package = import_module(f"testbed.{name}")
    for found in pkgutil.walk_packages(package.__path__, f"testbed.{name}."):
        sys.modules[found.name.removeprefix("testbed.")] = import_module(found.name)
    sys.modules[name] = package
