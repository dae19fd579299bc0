"""Emulation: real processes as devices, on Mininet's emulated network or on Unix sockets.

Everything that touches the kernel is here: the capsule's namespaces, links and their queues, memory cgroups, and the
forkserver that starts workers. Both fleets implement `testbed.controller.fleet.Fleet`, and neither knows a policy. An
import makes the system's programs findable, for this process and for Mininet.
"""

from testbed.programs import use_system_folders

use_system_folders()
