"""The linear and integer programming solver HiGHS, kept quiet, because standard output belongs to `--json`."""

from __future__ import annotations

import os
import sys
from typing import Any


def quiet_highs() -> Any:
    """A new HiGHS model on one thread that prints nothing. The first call loads HiGHS.

    HiGHS greets on file descriptor 1 when its first model is made, before any option can forbid it. So that descriptor
    leads nowhere meanwhile.
    """
    import highspy

    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        model = highspy.Highs()
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
    model.silent()
    model.setOptionValue("threads", 1)
    return model
