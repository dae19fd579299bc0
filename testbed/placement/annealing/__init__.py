"""The search behind headroom: descent and simulated annealing on compiled arrays, from several starts."""
