"""The twin: a fleet in virtual time that answers the controller as the emulated one would.

It computes no tensor and opens no socket. How long things take is asked of the cost model, how much they weigh of
`placement.blocks`; it has no formula of its own. It must not know policies, run folders or the command line.
"""
