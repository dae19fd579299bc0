"""Every number that steers the search for a placement, with its reason.

None of them changes what a placement costs; together they decide how near a decision comes to the best one and how
long it takes. Another value means other decisions. A *move* is one change of a placement that the search looks at.
"""

from __future__ import annotations

# --- effort: how many moves a decision looks at -------------------------------------------------------------------

# Moves take longer the more halves a token passes, and there are more of them to try. So the effort falls with a power
# of the number of halves: the square for a first placement, which is worth more time, and the cube for later ones.
FIRST_EFFORT, LATER_EFFORT = 6e9, 4e8
FIRST_MOVES = (400_000, 2_500_000)  # least and most: small models still need many moves, large ones must end
LATER_MOVES = (10_000, 400_000)  # the same of later decisions, for which a run stands still
FIRST_MOVES_PER_HALF = 100_000  # at most: for models of few halves more moves find nothing new
FEW_DEVICES = 8  # up to so many, the effort does not depend on the devices; above, it falls as their number grows,
MANY_DEVICES = 25  # and so does the least number of moves above these, because each move takes longer
SETTLED_SHARE = 8  # part of the effort that is left where the shortest path fits, because it is nearly the optimum

# How the moves of a decision are divided
DESCENT_MOVES = 40_000  # of one descent, at most: most descents end earlier, in a local optimum
DESCENT_SHARE = 4  # one descent has at most this part of the moves, or as many parts as there are starts
LATER_SHARE = 2  # part of a later decision's moves that annealing has
RUN_SHARE = 4  # part of the moves for the objective of the whole run, whose search begins from a good placement
SHORTEST_PATHS_SHARE = 10  # part of the moves, as half-layers computed for shortest paths
MOVES_PER_HALF = 5_000  # with fewer, annealing reaches nothing: so many for each finalist, and for several starts
FIRST_FINALISTS, FINALISTS = 4, 6  # starts that are annealed, at most: the more, the fewer moves for each
FIRST_ROUNDS = 2  # of annealing in a first placement: the second begins with the best of the first

# --- simulated annealing --------------------------------------------------------------------------------------------

# Temperatures, in units of the interval's cost per half, so that they suit models and networks of all sizes.
HOT = 1.0  # at the start: a half may become twice as slow
FIRST_HOT = 0.1  # in a first placement, whose starts are good already and should not be forgotten
ONLY_HOT = 0.3  # in a first placement where moves suffice for one finalist only, which must leave its start behind
RUN_HOT = 0.05  # for the objective of the whole run, which begins from the best placement for the interval
COLD = 0.005  # at the end: hardly any worse move is accepted
TEMPERATURE_STEPS = 64  # moves at one temperature: an exponential for each would take as long as the move
SMALLEST_GAIN = 1e-9  # of the objective, in descents: less is rounding, and would let a descent go on for ever

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

OVERFULL_WEIGHT = 3.0  # intervals' costs that overfilling by the bytes of the largest block costs: a wall in the end
SOFT = 0.03  # part of that weight at the start of annealing, so that the search can pass through placements too full
GRAINS = 4  # the smallest excess counts as this part of the largest block, so that a few bytes matter as well
HARDER_ROUNDS, HARDER = 3, 4  # while nothing fits, the weight is multiplied, so many times at most
RUN_WEIGHT_SHARE = 10  # overfilling at the run's end costs this part: blocks can still move before
CAP_WEIGHT = 100.0  # seconds that each second of the interval above its cap costs: dearer than any gain later
ROUNDING = 1e-9  # relative, by which a cost may be above its cap

# --- starts ---------------------------------------------------------------------------------------------------------

SINGLE_DEVICES = 4  # everything on one device: the fastest ones, because a slow one is no start
SPREAD_OVER = (2, 3, 4, 8)  # devices over which heads and shards are spread: messages make more of them slower
WORTH_TRYING = 12  # devices that are always worth trying: beyond them, the fastest until
HELD_TIMES = 2  # they hold the model so many times, so that memory leaves a choice

# Pipelines: orders of devices, which are filled one after the other
ORDER_RESTARTS = 12  # of the local search over orders, each for whole and for split halves
PIPELINES = 8  # that become starts
ORDERS = 1000  # looked at in one local search over orders, at most
MOVES_PER_ORDER = 20  # moves for each half that one order counts for, because all halves are placed anew

# Shortest paths, Lagrangian prices and crossover
TARGETS = 10  # devices where halves may end, fastest first, and the source: the time grows with their square
PRICE_ROUNDS = 12  # of raising prices; each gives one path
PRICE_STEP = 0.5  # first step of a price: this part of what devices' bytes cost on average
PRICE_DECAY = 4  # rounds after which the step is half as long, as subgradient steps must shrink
GENERATIONS, POOL = 4, 8  # of crossover, and the paths kept from each: more of either repeat what is known
CROSSOVER_SHARE = 4  # half-layers computed for crossover, in parts of those for the paths
PATHS = 6  # that become starts
LEAST_PRICED_GAIN = 1e-9  # relative, when units are shifted under prices: less is rounding

# --- memory of the search -------------------------------------------------------------------------------------------

MEMO = 1 << 16  # seconds of half-layers remembered by hash: 1 MiB stays in a processor's cache
FIRST_MEMO = 1 << 18  # in a first placement, which looks at many more of them

# --- from counts to blocks ------------------------------------------------------------------------------------------

ASSIGNED = 12  # placements that the search found, and that are assigned to blocks; the rest cost more by its count
MIXED = 16  # halves of one placement that are tried the other way

# --- what comes after the interval ----------------------------------------------------------------------------------

NEWEST = 0.5  # weight of the newest observation in the mean of the past: a single change is half believed
