"""The process that runs on a device: it computes its blocks, holds their caches, and moves them when told.

A worker knows its plan, its peers' addresses and its device model. It knows nothing of traces, policies or
what the emulation around it is made of.
"""
