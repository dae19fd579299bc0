"""`import analysis` gives `testbed.analysis`, where the code is."""

from testbed.doors import open_door

open_door(__name__)
