"""The process on a device: it computes its blocks, holds their KV caches, and moves them when told to.

A worker knows its plan, its peers' addresses and its device model. It knows nothing of traces and policies, nor of
what the emulation around it is made of.
"""
