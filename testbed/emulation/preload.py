"""What the forkserver imports once, for every worker and ballast it will fork."""


import torch

import testbed.worker.main  # noqa: F401

torch.set_num_threads(1)
