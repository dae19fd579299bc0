"""Looks for weights that are no numbers before a run, where that takes about a second at most.

In a larger checkpoint the devices find them while they fill their blocks.
"""

from __future__ import annotations

import numpy as np

from testbed.decoder.stored import STORED_FORMATS, StoredModel, StoredTensor, tensor_name
from testbed.decoder.widen import has_non_numbers
from testbed.errors import ConfigError
from testbed.files import open_file

MOST_BYTES = 2**30
"""The largest checkpoint that is looked through; a core reads one or two GB of scales and numbers a second."""

_READ_BYTES = 1 << 20


def refuse_non_numbers(model: StoredModel) -> None:
    """Raise ConfigError naming the first tensor with an infinite or undefined value, unless the checkpoint is large."""
    tensors = [one for one in model.tensors.values() if one.format in STORED_FORMATS]
    if sum(one.nbytes for one in tensors) > MOST_BYTES:
        return
    for one in sorted(tensors, key=lambda one: (one.file, one.offset)):
        _scan(one)


def _scan(one: StoredTensor) -> None:
    unit = STORED_FORMATS[one.format].block_bytes
    step = _READ_BYTES // unit * unit
    with open_file(one.file) as file:
        file.seek(one.offset)
        for start in range(0, one.nbytes, step):
            content = file.read(min(step, one.nbytes - start))
            rows = np.frombuffer(content, np.uint8).reshape(1, -1)
            if has_non_numbers(one.format, rows):
                raise ConfigError(f"{tensor_name(one)} has values that are not numbers: infinite, or NaN")
