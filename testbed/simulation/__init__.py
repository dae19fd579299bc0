"""The simulation: a fleet in virtual time that answers the controller as the emulated one would.

It computes no tensor and opens no socket. The cost model says how long things take, and `placement.blocks` how many
bytes they need; there is no formula here. It must not know policies, run folders or the command line.
"""
