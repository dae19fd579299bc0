"""The sandbox: a User-Mode Linux guest in which runs have netem, cgroup v2 and Open vSwitch without root.

It starts one command in a guest and passes its streams through. It knows nothing of runs.
"""
