"""The exact optimum of one decision on a star, and of a whole tiny run.

A decision is written as a program over *hubs*, the devices where half-layers end (`program`). A Lagrangian relaxation
bounds it from below (`relaxation`). Branch and bound lists the sequences of hubs that the bound leaves, and a dynamic
programme finds the best units for each of them (`branch_and_bound`). `solve` puts these together.
"""
