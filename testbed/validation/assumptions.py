"""What no row of a single board decides, in one place, so that it can be shown with other values.

`docs/validation.md` has every score for each of them. None was fitted to a row that is scored.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Assumptions:
    """The values that are taken where nothing was measured."""

    threads_power: float = 0.5
    """A GUESS: with fewer threads than cores, rates grow with this power of the threads. 0: the memory decides;
    1: the cores do."""
    logits_factor: float | None = None
    """How many times longer a byte of the logits takes in old versions of distributed-llama, for boards whose rows do
    not say it. None: the geometric mean of those that do."""
    kv_rereads: float | None = None
    """How often an operation reads a KV cache. None: as its engine shares query heads among threads."""
    lan_message_s: float = 1e-4
    """What a message takes beside its bits on a wired network: the package's nominal time of a hop
    (`controller.calibration.NOMINAL_HOP_S`)."""
    cloud_message_s: float = 3.6e-5
    """The same between virtual machines: half of a round trip of 72 us in one zone (tech.zarmory.com, 2017-12-07)."""
    context: float = 64.0
    """The position of a token where a row says none: a short answer."""
    reserve_bytes: int = 2**30 // 10
    """Of each board's memory, for the system. Not more, because a single board ran with 0.11 GiB left by this count."""


DEFAULT = Assumptions()
