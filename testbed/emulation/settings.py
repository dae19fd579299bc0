"""What a run sets on the kernel, as numbers that can be shown before anything is set."""

from __future__ import annotations

from typing import Any

from testbed.experiment import Experiment

# What a worker needs beside its blocks once it is warm: interpreter growth, socket buffers, page tables,
# the log of spans. Measured at 2-4 MiB on the quickstart; twice that.
WORKER_RESERVE_BYTES = 8 * 2**20
MIGRATION_WINDOW_BYTES = 2**20  # testbed.worker.transfers.WINDOW_BYTES, per sender


def reserve_bytes(experiment: Experiment) -> int:
    """Memory over baseline and budget that a device's limit leaves: activations and chunks in flight."""
    shape = experiment.shape
    partials = max(experiment.partition.ffn_shards, shape.kv_heads if experiment.partition.proj_rows else 1)
    width = max(shape.ffn_width, partials * shape.width)
    activations = 2 * experiment.prefill_chunk * width * shape.activation_bytes
    logits = 2 * shape.vocab * shape.activation_bytes
    in_flight = MIGRATION_WINDOW_BYTES * (len(experiment.topology.devices) - 1)
    return WORKER_RESERVE_BYTES + activations + logits + in_flight


def peak_memory_bytes(experiment: Experiment, device: str) -> int:
    """The largest budget the device ever has: its limit is made for it, a ballast takes what a trace takes away."""
    rows = [row for trace in experiment.traces.traces for row in trace.rows.get((f"device/{device}", "memory"), [])]
    return max(experiment.topology.device(device).memory_bytes, *(int(value) for _, value in rows), 0)


def memory_changes(experiment: Experiment, device: str) -> bool:
    """Whether a trace drives this device's memory, so that it needs a ballast."""
    return f"device/{device}" in {target for trace in experiment.traces.traces for target, quantity in trace.rows
                                  if quantity == "memory"}  # fmt: skip


def memory_limit_bytes(experiment: Experiment, device: str) -> int:
    """The device's memory limit, over the warm baseline measured at the start of the run."""
    return reserve_bytes(experiment) + peak_memory_bytes(experiment, device)


def queue_settings(rate_bps: float) -> dict[str, Any]:
    """A link direction's queue as it will be installed."""
    from testbed.emulation.shaping import tbf_settings

    return tbf_settings(rate_bps)
