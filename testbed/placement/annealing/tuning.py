"""Every number that steers the search for a placement, with its reason.

None of them changes what a placement costs; together they decide how near a decision comes to the best one and how
long it takes. Another value means other decisions. A *move* is one change of a placement that the search looks at.
"""

from __future__ import annotations

# --- effort: how many moves a decision looks at -------------------------------------------------------------------

# Moves take longer the more halves a token passes, and there are more of them to try. So the effort falls with a power
# of the number of halves: the square for a first placement, which is worth more time, and the cube for later ones.
FIRST_EFFORT, LATER_EFFORT = 6e9, 4e8
FIRST_MOVES = (400_000, 2_500_000)  # least and most: the power alone gives small models minutes, large ones too little
LATER_MOVES = (10_000, 400_000)  # the same for later decisions, which the run waits for
FIRST_MOVES_PER_HALF = 100_000  # at most, because few halves have few placements
# Each move takes longer the more devices there are. Above so many, the effort of a first placement falls in proportion;
# above the second number, its least does so too.
FEW_DEVICES, MANY_DEVICES = 8, 25
SETTLED_SHARE = 8  # the part of the effort that is left where the shortest path fits: it is nearly the optimum

# How the moves of a decision are divided
DESCENT_MOVES = 40_000  # of one descent, at most: a descent ends by itself in a local optimum, and mostly earlier
DESCENT_SHARE = 4  # one descent has at most this part of the moves; with more starts than that, each has its share
LATER_SHARE = 2  # the part of a later decision's moves that annealing has; descents have taken others
RUN_SHARE = 4  # the part for the objective of the whole run, whose search begins from a good placement
SHORTEST_PATHS_SHARE = 10  # the part for shortest paths, counted in half-layers, which give starts only
MOVES_PER_HALF = 5_000  # that one annealing needs at least; with more in all, a later decision has several starts
FIRST_FINALISTS, FINALISTS = 4, 6  # starts that are annealed, at most: the more, the fewer moves for each
FIRST_ROUNDS = 2  # of annealing in a first placement: the second begins with the best of the first

# --- simulated annealing --------------------------------------------------------------------------------------------

# Temperatures, in units of the interval's cost per half, so that they suit models and networks of all sizes.
HOT = 1.0  # at the start: of moves that make a half twice as slow, a third is accepted
FIRST_HOT = 0.1  # in a first placement, whose starts are better and should not be lost
ONLY_HOT = 0.3  # in a first placement with moves for one finalist only, which has to find what others would
RUN_HOT = 0.05  # for the objective of the whole run, which begins from the best placement for the interval
COLD = 0.005  # at the end: of moves that make a half 0.5 % slower, a third is accepted
TEMPERATURE_STEPS = 64  # moves at one temperature, which changes so slowly that more exact values gain nothing
SMALLEST_GAIN = 1e-9  # of the objective, in descents: less is rounding, with which a descent could go in circles

# Shares of the random moves of annealing, in percent. Large changes are rare, because they are mostly refused.
SHIFT_ONE = 20  # one unit to another device: the smallest change there is
SHIFT_SOME = 10  # several units at once, for where the first of them alone makes things worse
TRADE = 12  # units of two halves change places: possible where devices are full
GATHER_UNITS = 3  # all units of a half to one device: rare, because it undoes many single shifts
TARGET = 17  # the target of one half to another device
TWO_TARGETS = 8  # the targets of two halves in turn: moving only one can add a hop
WHOLE_RUN = 7  # a run of halves, units and targets, to one device
COPY = 6  # a half does as another one: layers are alike, so what is good for one may be good for others
EXCHANGE = 6  # two halves change places, which leaves each device as full as it was
EXCHANGE_TARGETS = 6  # the same for targets alone
SPREAD = 3  # several layers do as another layer: a large change
RENAME = 2  # a device takes over another one's part in some halves: a large change
LONGEST_RUN = 4  # halves in a run, which are two layers; longer runs move step by step
MANY_FIRST = 4  # units of a device from which on a descent tries to shift many of them before it tries one

# --- what memory is worth -------------------------------------------------------------------------------------------

OVERFULL_WEIGHT = 3.0  # intervals' costs for overfilling by the bytes of the largest block: more than any move gains
SOFT = 0.03  # part of that weight at the start of annealing, which so can pass through placements that do not fit
GRAINS = 4  # the smallest excess counts as this part of the largest block, so that a few bytes matter as well
HARDER_ROUNDS, HARDER = 3, 4  # while nothing fits, the weight is multiplied by 4, at most 3 times
RUN_WEIGHT_SHARE = 10  # overfilling at the run's end costs this part, because blocks can still move until then
CAP_WEIGHT = 100.0  # seconds for each second of the interval above its cap: more than later tokens can gain
ROUNDING = 1e-9  # relative, by which a cost may be above its cap

# --- starts ---------------------------------------------------------------------------------------------------------

SINGLE_DEVICES = 4  # that have everything, the fastest ones: a slow one is a worse start of the same kind
SPREAD_OVER = (2, 3, 4, 8)  # devices over which heads and shards are spread; moves reach the numbers between
# Destinations of moves: the fastest devices, at least so many, and so many that they hold the model twice.
WORTH_TRYING, HELD_TIMES = 12, 2

# Pipelines: orders of devices, which are filled one after the other
ORDER_RESTARTS = 12  # local searches over orders, from different ones because each ends in a local optimum
PIPELINES = 8  # that become starts, each with a descent of its own
ORDERS = 1000  # looked at in one local search, at most: few devices have few orders
MOVES_PER_ORDER = 20  # moves for each half that one order counts for, because it places all halves anew

# Shortest paths, Lagrangian prices and crossover
TARGETS = 10  # devices where halves may end, fastest first, and the source: the time grows with their square
PRICE_ROUNDS = 12  # of prices, each with one path; with their smaller steps, later rounds change little
PRICE_STEP = 0.5  # the first step of a price, as a part of what a byte costs on average
PRICE_DECAY = 4  # rounds after which the step is half as long: subgradient steps must shrink to converge
GENERATIONS, POOL = 4, 8  # of crossover, and what is kept from each: the time grows with both
CROSSOVER_SHARE = 4  # times the half-layers of the paths for crossover, whose half-layers are mostly remembered
PATHS = 6  # that become starts, each with a descent of its own
LEAST_PRICED_GAIN = 1e-9  # relative, when units are shifted under prices: less is rounding

# --- memory of the search -------------------------------------------------------------------------------------------

MEMO = 1 << 16  # half-layers remembered by hash, in 1 MiB, which fits in a processor's cache
FIRST_MEMO = 1 << 18  # in a first placement, which looks at many more of them

# --- from counts to blocks ------------------------------------------------------------------------------------------

ASSIGNED = 12  # placements found that are assigned to blocks, best first: each is costed by plain Python
MIXED = 16  # halves of one placement whose other assignment is tried alone, for the same reason

# --- what comes after the interval ----------------------------------------------------------------------------------

NEWEST = 0.5  # weight of the newest observation in the mean of the past: a single change is half believed
