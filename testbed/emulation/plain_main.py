"""Hiding the caller's script from child processes.

multiprocessing imports the `__main__` module of its caller again in every child. A script that starts runs at its top
level, without `if __name__ == "__main__"`, would then start them again in every child.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def plain_main() -> Iterator[None]:
    """Let multiprocessing see an empty `__main__` while it starts processes in this block."""
    mine = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = mine
