"""A User-Mode Linux guest in which runs have netem, cgroup v2 and Open vSwitch without root."""
