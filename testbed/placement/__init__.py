"""Placement: blocks, what a policy may see, the honest cost model, and the policies.

This room is pure: no sockets, no files, no clock, no torch. The worker uses `blocks` and `plan` from it
and nothing else; the controller and the simulator call the same cost functions the policies call.
"""
