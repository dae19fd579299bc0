"""For all tests: no display, and hypothesis without a deadline (the machines that run this share two cores)."""

from __future__ import annotations

import os

from hypothesis import settings

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["TESTBED_CALIBRATION"] = "/dev/null.none"  # the nominal values, whatever is known of this machine
settings.register_profile("headroom", deadline=None, print_blob=True)
settings.load_profile("headroom")
