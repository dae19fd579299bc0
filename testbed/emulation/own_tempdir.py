"""The folder for the sockets by which multiprocessing talks to its forkserver, kept where `clean` looks.

By default each process that uses one makes a folder of its own in the system's temporary one, and leaves it there when
it is killed.
"""

from __future__ import annotations

import atexit
import multiprocessing
from functools import cache
from typing import Any

from testbed.emulation.state_files import StateFile, clean, take_away


@cache
def use_own_tempdir() -> None:
    """Let this process have its folder in the runtime folder, for as long as it lives; removes what dead ones left.

    To be called before multiprocessing needs one.
    """
    config: dict[str, Any] = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    if "tempdir" not in config:
        clean()
        state = StateFile.create()
        atexit.register(take_away, state)
        config["tempdir"] = str(state.sockets)
