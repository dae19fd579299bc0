"""A user's own policy, loaded from `path.py:Class`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

from testbed.errors import ConfigError
from testbed.placement.observation import Policy


def load_class(name: str) -> Callable[..., Policy]:
    """The class that `path.py:Class` names. Raises ConfigError where the file or the class is missing or broken."""
    path, _, class_name = name.rpartition(":")
    file = Path(path)
    spec = importlib.util.spec_from_file_location(f"policy file {file.resolve()}", file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise ConfigError(f"policy file {path} does not exist: write policy: path.py:Class")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there for what a class's annotations mean
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's file raises, the user is told
        del sys.modules[spec.name]
        raise ConfigError(f"policy file {path} cannot be loaded: {on_one_line(error, named=True)}") from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type) or not all(callable(getattr(found, method, None)) for method in ("decide", "reset")):
        raise ConfigError(f"policy file {path} has no class {class_name!r} with methods reset and decide")
    return found


def on_one_line(error: BaseException, named: bool = False) -> str:
    """What a user's code raised, on one line and with the exception's name.

    The name is left out for a TypeError unless `named`: Python's own words about wrong options say enough.
    """
    words = " ".join(str(error).split())
    return words if words and isinstance(error, TypeError) and not named else f"{type(error).__name__}: {words}"
