"""What this machine can emulate, found by trying it, and how well.

A check makes what a run would make and leaves nothing behind. Whether a run is faithful is the verdict's business.
"""
