"""Every number that steers the exact search, with its reason.

They decide how long a decision takes and when it is cut short. The tolerances at the end also decide what counts as
proved.
"""

from __future__ import annotations

# How much is looked at
UNIT_ASSIGNMENTS = 4096  # up to so many, shards are assigned one by one, because their roots depend on which go where
SEQUENCES = 500_000  # of hubs that are listed, those of least bound: it limits the memory of the list
PARTIAL_SOLUTIONS = 4_000_000  # kept for one sequence: 0.8 GB with the 25 resources of five devices
PAIRS = 20 * PARTIAL_SOLUTIONS  # of partial solutions and options compared at once; a byte each, and few are kept
MERGED_FROM = 500  # partial solutions from which on those of equal use are merged: for fewer, sorting does not pay
OFFLINE_PAIRS = 5_000_000  # pairs of placements in intervals that follow each other, in the programme over a whole run
COUNT_VECTORS = 100_000  # ways to divide the heads of one layer: 32 heads on 5 devices have 58,905
OFFLINE_PLACEMENTS = 5000  # states of the programme over a whole run, which compares all pairs of them at each step

# How far over a bound solutions are looked for, as parts of the bound. A narrow width leaves few candidates; the next
# one is tried only when the width before held no solution, and they grow so that few searches are in vain.
DECISION_WIDTHS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.6, 1.5, 5.0)
SEQUENCE_WIDTHS = (0.002, 0.01, 0.03, 0.1, 0.3, 1.0)
LEAST_WIDTH_UNIT_S = 1e-6  # what decision widths are parts of where the bound is about zero

# The linear programmes
COLUMN_ROUNDS = 200  # of column generation, which ends earlier when no column is new: a guard against cycling
CLOSE = 1e-7  # relative distance of bound and linear programme at which better prices would hardly raise the bound
OVERUSE_COST = 100.0  # of exceeding a limit by all of it, in costs of a token's path: dearer than any detour
OVERUSED = 1e-9  # part of a limit that the solver may leave of a column that is zero
LEAST_SCALE_S = 1e-9  # objectives are divided by their size, which may be zero
LEAST_SEQUENCE_SCALE_S = 1e-12  # the same for one sequence of hubs

# Tolerances
PROVED = 1e-9  # relative distance of cost and bound at which they are the same
REACHED = 1e-10  # relative distance at which a bound reaches the best cost: smaller than `PROVED`, above rounding
MEMORY_EXCESS = 1e-6  # over 1, by which a bound shows that memory cannot suffice: far above its rounding
