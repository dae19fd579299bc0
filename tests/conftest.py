"""For all tests: no display, signals that are heard, hypothesis without a deadline (the machines share two cores)."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

# A shell's background job ignores Ctrl-C, and so would every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
if (
    signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
):  # `nohup script/test`: heard by what tests start, and not by the tests
    signal.signal(signal.SIGHUP, lambda number, frame: None)
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["TESTBED_PROMPTS"] = "/dev/null/none"  # nothing is remembered from test to test
os.environ["TESTBED_CALIBRATION"] = "/dev/null.none"  # the nominal values, whatever is known of this machine
settings.register_profile("headroom", deadline=None, print_blob=True)
settings.load_profile("headroom")
