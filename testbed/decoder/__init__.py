"""The decoder-only Transformer, cut into blocks: weights, their memory, the maths, and the reference.

This room knows nothing of devices, sockets or placement policies. Every function computes a block in
the same shapes whatever else is on the device, so that a placement cannot change a single bit of a logit.
"""
