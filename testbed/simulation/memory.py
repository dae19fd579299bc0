"""What every device holds, counted in whole pages like a worker's own ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from testbed.placement.blocks import Block, Partition, copied_bytes, pinned_bytes, replica_bytes, resident_bytes
from testbed.shape import ModelShape


class Memory:
    """Blocks by device. A moving block is on both devices from `take` at its new one to `drop` at its old one."""

    def __init__(self, shape: ModelShape, partition: Partition, names: Sequence[str]) -> None:
        self._shape, self._partition = shape, partition
        self._held: dict[str, set[Block]] = {name: set() for name in names}
        self._kinds: dict[str, Counter[str]] = {name: Counter() for name in names}
        self._pinned: set[str] = set()
        self.replicas: Counter[str] = Counter()  # of caches of other devices' heads
        self._copied_bytes, self._pinned_bytes = copied_bytes(shape, partition), pinned_bytes(shape, partition)
        self._sizes: tuple[int, dict[str, int]] = (-1, {})  # (length, kind -> bytes of a block), as last asked for

    def pin(self, device: str) -> None:
        """Put the embedding and the LM head on this device."""
        self._pinned.add(device)

    def take(self, device: str, blocks: Iterable[Block]) -> None:
        """Put these blocks on the device."""
        for block in blocks:
            if block not in self._held[device]:
                self._held[device].add(block)
                self._kinds[device][block.kind] += 1

    def drop(self, device: str, blocks: Iterable[Block]) -> None:
        """Take these blocks off the device."""
        for block in blocks:
            if block in self._held[device]:
                self._held[device].discard(block)
                self._kinds[device][block.kind] -= 1

    def blocks(self, device: str) -> list[Block]:
        """The blocks on the device."""
        return sorted(self._held[device])

    def clear(self, device: str) -> None:
        """Take everything off the device."""
        self._held[device].clear()
        self._kinds[device].clear()
        self._pinned.discard(device)

    def held_bytes(self, device: str, length: int) -> int:
        """Bytes of everything on the device with `length` positions cached."""
        kept = self._copied_bytes + (self._pinned_bytes if device in self._pinned else 0)
        kept += self.replicas[device] * replica_bytes(self._shape, length)
        return kept + sum(self._size(kind, length) * count for kind, count in self._kinds[device].items())

    def _size(self, kind: str, length: int) -> int:
        if self._sizes[0] != length:
            self._sizes = (length, {})
        sizes = self._sizes[1]
        if kind not in sizes:
            block = Block(kind, 0)  # type: ignore[arg-type]
            sizes[kind] = resident_bytes(self._shape, block, length, self._partition)
        return sizes[kind]
