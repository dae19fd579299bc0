"""The decoder-only Transformer, cut into blocks: checkpoints, weights, memory, arithmetic, and the reference.

This room knows nothing of devices, sockets or policies. Each function computes a block in the same tensor shapes,
whatever else is on the device, so no placement can change a bit of a logit.
"""
