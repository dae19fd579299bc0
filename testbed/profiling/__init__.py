"""Measures what a machine does with an engine: the finer numbers of a device, for the catalogue.

It needs neither Mininet nor root. It does not know topologies' links, runs or experiments.
"""
