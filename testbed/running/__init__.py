"""One run, a comparison, a sweep, a dry run, a calibration: here a fleet, a controller and a policy come together.

Each has a module of its name with one function that does it: `replay`, `compare`, `sweep`, `dry_run`, `calibrate`. The
command line parses, calls one of them and prints. Nothing here parses, and only what was asked for is printed: a bar
with `progress`, and how to reach the network with `hold`.
"""
