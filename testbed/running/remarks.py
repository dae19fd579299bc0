"""Where a run's remarks go: warnings, which backend was chosen, and what a run is waiting for.

Every function of this room takes a `tell` that is called with one sentence at a time. The command line prints these
sentences on standard error. A caller from Python who passes none finds them in the log `testbed`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

Tell = Callable[[str], None]


def tell_log(sentence: str) -> None:
    """Write the sentence to the log `testbed`; Python shows that on standard error unless it is told otherwise."""
    logging.getLogger("testbed").warning(sentence)


def tell_nobody(sentence: str) -> None:
    """Drop the sentence; for runs whose remarks nobody could tell apart, such as many at once."""
