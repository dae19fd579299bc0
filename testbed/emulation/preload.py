"""What the forkserver imports once, for every worker and ballast it will fork.

All of it is frozen: a collection in a child that looked at it would copy every page it is on, which would be charged to
the device (39 MiB, measured), and take tens of milliseconds in the middle of a token.
"""

import gc

import torch

import testbed.worker.main  # noqa: F401

torch.set_num_threads(1)
gc.collect()
gc.freeze()
