"""Headroom: a network-emulation testbed for placing the attention heads of a language model on small devices."""

__version__ = "0.1.0"
