"""Limits of emulated links that several rooms use."""

TCP_SHARE = 0.956
"""The largest share of a link's rate that TCP payload can reach at an MTU of 1500 bytes."""
