"""A Llama with 1.1 billion weights in q8_0 on five devices, random or from a GGUF file.

No process holds the model twice, devices that have just enough memory are not killed, and the first token comes within
a minute. It needs 3 GB of memory, and 1.2 GB in the folder for temporary files.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter
from gguf_cases import llama_dims, random_bytes
from running import UNJUDGED, Place, control_groups, processes, rows, write_experiment

from testbed.decoder.stored import stored_bytes
from testbed.models.presets import PRESETS
from testbed.runlog.folder import read_lines

MIB = 2**20
SHAPE = PRESETS["tinyllama-1.1b"]
DIMS = llama_dims(
    SHAPE.layers, SHAPE.width, SHAPE.heads, SHAPE.kv_heads, SHAPE.ffn_width, SHAPE.vocab, tied=False
)  # fmt: skip
GGUF_BYTES = sum(stored_bytes("float32" if len(size) == 1 else "q8_0", size) for size in DIMS.values())  # 1.17 GB
FIRST_TOKEN_S = 60.0
PSS_SHARE = 1.5
BUDGETS = {"a": "353 MiB", "b": "217 MiB", "c": "182 MiB", "d": "182 MiB", "e": "185 MiB"}  # with less than 1 MiB left
DEVICE = {
    "streaming": "10 GB/s", "compute": "100 GFLOP/s", "storage": "10 GB/s",
    "link": {"rate": "1 Gbit/s", "delay": "0.1 ms"},
}  # fmt: skip


@dataclass
class Found:
    """What a run was seen to take; bytes are the most at one moment."""

    first_token_s: float = 0.0
    pss: int = 0  # of all processes together
    largest: dict[int, int] = field(default_factory=dict)  # of each process, by its pid
    cache: dict[str, int] = field(
        default_factory=dict
    )  # pages of the file charged to each device, which can be dropped


@pytest.mark.timeout(600)
@pytest.mark.parametrize("source", ["random weights", "a GGUF file"])
def test_a_billion_weights_are_held_once_and_the_first_token_comes_within_a_minute(
    source: str, place: Place, tmp_path: Path
) -> None:
    model: dict[str, Any] = {"preset": SHAPE.name, "format": "q8_0", "seed": 7}
    if source == "a GGUF file":
        model = {"path": str(write_gguf(tmp_path / "model.gguf"))}
    experiment = write_experiment(
        tmp_path,
        model=model,
        prompt={"ids": [1, 450, 4996, 17354, 1701, 29916]},
        tokens=8,
        topology={
            "shape": "star",
            "source": "a",
            "devices": {name: DEVICE | {"memory": size} for name, size in BUDGETS.items()},
        },
    )
    found, started_s = Found(), time.monotonic()
    with place.started(experiment, "--backend", "mininet", *UNJUDGED) as going:
        folder, record = going.folder(), going.record()
        assert record.init is not None
        capsule = os.readlink(f"/proc/{record.init.pid}/ns/pid")
        while going.process.poll() is None:
            look(going.process.pid, capsule, record.run_id, found)
            if not found.first_token_s and any(read_lines(folder / "tokens.jsonl")):
                found.first_token_s = time.monotonic() - started_s
            time.sleep(0.2)
        ended = going.end()
    assert ended.code == 0, ended.err
    peaks = ended.summary["peak_memory_bytes"]
    print(
        f"{source}: first token after {found.first_token_s:.1f} s, PSS at most {found.pss / GGUF_BYTES:.2f} of a file, "
        f"token {ended.summary['tpot_ms']['p50']:.0f} ms, devices {sum(peaks.values()) / GGUF_BYTES:.2f}, "
        f"cache {max(found.cache.values()) / MIB:.1f} MiB, largest process {max(found.largest.values()) / MIB:.0f} MiB"
    )
    assert found.pss < PSS_SHARE * GGUF_BYTES
    assert found.first_token_s < FIRST_TOKEN_S
    assert ended.summary["oom_kills"] == 0
    predicted = [row["predicted_bytes"] for row in rows(folder, "devices") if row["predicted_bytes"]]
    assert max(found.largest.values()) < 1.1 * max(predicted) + 16 * MIB


def look(outer: int, capsule: str, run_id: str, found: Found) -> None:
    """Note what the run's processes and control groups hold now."""
    inside = processes(lambda pid: os.readlink(f"/proc/{pid}/ns/pid") == capsule)
    sizes = {pid: size for pid in (outer, *(each.pid for each in inside)) if (size := pss_bytes(pid)) is not None}
    found.pss = max(found.pss, sum(sizes.values()))
    found.largest |= {pid: max(size, found.largest.get(pid, 0)) for pid, size in sizes.items()}
    for group in (group for run in control_groups(run_id) for group in run.iterdir() if group.is_dir()):
        found.cache[group.name] = max(found.cache.get(group.name, 0), cache_bytes(group))


def pss_bytes(pid: int) -> int | None:
    """A process's share of all pages that it has; None if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["Pss"].split()[0]) * 1024


def cache_bytes(group: Path) -> int:
    """Pages of files that a control group is charged for; 0 for one that has just been removed."""
    try:
        fields = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:
        return 0
    return int(fields["cache"] if "cache" in fields else fields["file"])


def write_gguf(file: Path) -> Path:
    """The model as a GGUF file of random blocks, without a tokenizer; its pages are not in the page cache."""
    q8_0, draw = GGMLQuantizationType.Q8_0, np.random.default_rng(0)
    writer = GGUFWriter(file, "llama")
    writer.add_block_count(SHAPE.layers)
    writer.add_context_length(SHAPE.positions)
    writer.add_embedding_length(SHAPE.width)
    writer.add_feed_forward_length(SHAPE.ffn_width)
    writer.add_head_count(SHAPE.heads)
    writer.add_head_count_kv(SHAPE.kv_heads)
    writer.add_layer_norm_rms_eps(SHAPE.norm_epsilon)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(SHAPE.head_dim)
    writer.add_vocab_size(SHAPE.vocab)
    for name, size in DIMS.items():
        if len(size) == 1:
            writer.add_tensor_info(name, size, np.dtype(np.float32), 4 * size[0])
        else:
            rows, stored = size[0], size[1] // 32 * 34
            writer.add_tensor_info(name, (rows, stored), np.dtype(np.uint8), rows * stored, q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for size in DIMS.values():
        raw = random_bytes("float32" if len(size) == 1 else "q8_0", size, draw, 0.01)
        writer.write_tensor_data(np.frombuffer(raw, np.uint8))
    writer.close()
    forget_pages(file)
    return file


def forget_pages(file: Path) -> None:
    """Write a file out and drop it from the page cache, so that it is read from the disk."""
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
