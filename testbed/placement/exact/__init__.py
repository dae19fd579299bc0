"""The exact optimum of one decision on a star, and of a whole tiny run: problem, bounds, search, solution.

The devices where the halves of the layers end, the *hubs*, are few; once they are fixed, what is left is how many
heads and shards go where, which a linear programme almost settles. So the hubs are enumerated under a bound, and the
counts are found by a dynamic programme for the few sequences of hubs that the bound leaves.
"""
