"""What the forkserver imports once for every worker and ballast that it will fork.

All of it is frozen. A garbage collection in a child would otherwise copy every page that it looks at. These pages
would be charged to the device (22 MiB, measured), and copying them takes tens of milliseconds in the middle of a
token.
"""

import gc

import testbed.worker.main  # noqa: F401
from testbed.decoder import kernels

kernels.library()
gc.collect()
gc.freeze()
