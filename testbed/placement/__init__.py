"""Placement: blocks, what a policy may see, what a placement costs, and the policies.

`blocks`, `tree` and `plan` say how a model is cut and what the devices do. `latency` defines how long half a layer
takes, and `all_to_all` how long it takes without a hub. `cost/` predicts whole tokens, migration and memory.
`policies/` has one policy per file. The engines they use are in `local/` (a draft and shifts of its blocks), `layers/`
(whole layers), `annealing/` and `exact/`.

This room uses no sockets, no files and no torch, and no clock except for the time limit of `exact`. The worker uses
`blocks`, `tree` and `plan`. The controller and the simulator call the same cost functions as the policies.
"""
