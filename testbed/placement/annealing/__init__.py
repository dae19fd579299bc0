"""The search behind `headroom`: descent and simulated annealing on compiled arrays, from several starts.

`problem` is a decision as arrays, and `state` a placement under search with what it costs. `moves` has the moves, and
descent and annealing by them. Starts come from `starts` (simple placements), `pipelines` (devices filled one after
the other) and `shortest_paths` (a token's cheapest path, with Lagrangian prices for memory). `search` puts these
together, `counts_to_blocks` turns what it found into placements of blocks, and `outlook` says what to expect after
the interval. All numbers that steer the search are in `tuning`.
"""
