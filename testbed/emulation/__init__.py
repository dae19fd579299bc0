"""Emulation: real processes as devices, on Mininet's emulated network or on Unix sockets.

Everything that touches the kernel is here: the capsule's namespaces, links and their queues, memory cgroups,
and the forkserver that spawns workers. Both fleets implement `testbed.controller.fleet.Fleet`. Whoever imports it may
start programs of the system, so they are made findable here, for this process and for Mininet.
"""

from testbed.programs import use_system_folders

use_system_folders()
