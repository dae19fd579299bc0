"""Loads the weights of incoming blocks from the device's own storage, at its rate and in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from testbed.decoder.store import BlockStore
from testbed.placement.blocks import parse_block, weight_bytes
from testbed.transport.messages import Prepare


@dataclass(frozen=True)
class WeightsReady:
    """The thread posts this when a block's weights are in memory, or could not be loaded."""

    epoch: int
    block: str
    error: str = ""


class Loading:
    """Loads the reserved blocks of one epoch, one after another and no faster than the storage could."""

    def __init__(
        self, command: Prepare, store: BlockStore, post: Callable[[WeightsReady], None], dilation: float
    ) -> None:
        self._command, self._store, self._post, self._dilation = command, store, post, dilation
        self._cancelled = threading.Event()
        threading.Thread(target=self._run, name="load", daemon=True).start()

    def _run(self) -> None:
        free_s = time.monotonic()
        for incoming in self._command.incoming:
            block, error = parse_block(incoming.block), ""
            try:
                self._store.fill(block)
            except Exception as problem:
                error = str(problem)
            size = weight_bytes(self._store.shape, block.kind, self._store.partition)
            free_s += size / self._command.storage_Bps * self._dilation
            if self._cancelled.wait(max(0.0, free_s - time.monotonic())):
                return
            self._post(WeightsReady(self._command.epoch, incoming.block, error))

    def cancel(self) -> None:
        """End soon, and post nothing more."""
        self._cancelled.set()
