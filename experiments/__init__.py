"""Experiments and sweeps that come with the package, by name: `testbed replay quickstart`. Its files are YAML."""
