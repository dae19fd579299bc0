"""Memory limits of devices and lengths of their frames, computed before anything is set, so a dry run can show them."""

from __future__ import annotations

from testbed.experiment.schema import Experiment
from testbed.placement.blocks import Partition
from testbed.shape import ModelShape
from testbed.worker.chunks import CHUNK_BYTES, WINDOW_BYTES

# What a warm worker needs beside its blocks: growth of the interpreter, socket buffers, page tables. Measured at
# 1.7-3.1 MiB on the quick start, for every partition; this is more than twice as much.
WORKER_RESERVE_BYTES = 8 * 2**20
HEADER_BYTES = 2**12  # of a message at most, since a name has at most 255 characters
NUMBER_BYTES = 4  # of an activation in memory, whatever the format is in which it travels
DRAW_BYTES = 64  # of one logit, while a token is drawn: itself and its place, sorted and summed up, in 8 bytes each
SPAN_BYTES = 768  # of one span, which is collected at each boundary, and of its copies on the way


def reserve_bytes(experiment: Experiment) -> int:
    """Memory that a device's limit leaves over baseline and budget: for activations, chunks in flight and spans."""
    shape, devices = experiment.shape, len(experiment.topology.devices)
    activations = experiment.prefill_chunk * numbers_per_row(shape, experiment.partition, devices) * NUMBER_BYTES
    logits = (2 * NUMBER_BYTES + (DRAW_BYTES if experiment.sampling is not None else 0)) * shape.vocab
    in_flight = 2 * WINDOW_BYTES * (devices - 1)  # to and from every other device
    per_layer = 4 + 2 * devices  # in two halves: work, a sum, and a message from each device
    chunks = -(-experiment.most_prompt_tokens // experiment.prefill_chunk)  # each is a pass of the first interval
    passes = min(experiment.interval, experiment.tokens) + chunks - 1
    spans = SPAN_BYTES * passes * shape.layers * per_layer
    return WORKER_RESERVE_BYTES + activations + logits + in_flight + spans


def numbers_per_row(shape: ModelShape, partition: Partition, devices: int) -> int:
    """The most numbers that a worker holds at once for one row of a prefill chunk, in float32.

    They are those of one half-layer: its input, as it is, normalised, and on its way to every device; what heads or an
    FFN have between their matrices; and the partial sums of all heads or shards, with those that are being added. With
    an all-to-all exchange some values of the next half may be there too, and roots, at most one for every other head or
    shard, are on their way to every device.
    """
    partials = max(partition.ffn_shards, shape.kv_heads if partition.proj_rows else 1)
    inner = (3 if shape.gated_ffn else 2) * shape.ffn_width // partition.ffn_shards  # before and after the activation
    attended = 3 * shape.heads * shape.head_dim  # of each group, side by side, and rounded
    sums = partials + 4 if partials > 1 else 0
    numbers = max(inner, attended) + (1 + devices + sums) * shape.width
    if not partition.hub:
        numbers += partials * shape.width + devices * (partials // 2) * shape.width
    return numbers


def largest_frame_bytes(experiment: Experiment) -> int:
    """The longest frame that one device sends to another: a chunk, or a prefill's rows with all partial sums."""
    shape, partition = experiment.shape, experiment.partition
    partials = max(partition.ffn_shards, shape.kv_heads if partition.proj_rows else 1)
    row = max(partials * shape.width, shape.heads * shape.head_dim) * shape.activation_bytes
    return max(CHUNK_BYTES, experiment.prefill_chunk * row) + HEADER_BYTES


def peak_memory_bytes(experiment: Experiment, device: str) -> int:
    """The largest budget that the device ever has. Its limit is made for that; a ballast takes what a trace takes."""
    rows = [row for trace in experiment.traces.traces for row in trace.rows.get((f"device/{device}", "memory"), [])]
    return max(experiment.topology.device(device).memory_bytes, *(int(value) for _, value in rows), 0)


def memory_changes(experiment: Experiment, device: str) -> bool:
    """Whether a trace changes this device's memory, so that it needs a ballast."""
    return f"device/{device}" in {target for trace in experiment.traces.traces for target, quantity in trace.rows
                                  if quantity == "memory"}  # fmt: skip


def memory_limit_bytes(experiment: Experiment, device: str) -> int:
    """The device's memory limit above the warm baseline, which is measured at the start of the run."""
    return reserve_bytes(experiment) + peak_memory_bytes(experiment, device)
