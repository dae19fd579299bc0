"""Times the decoder's kernels, against torch's float32 on the same shapes with one thread.

`python -m benchmarks.kernels` multiplies a matrix in each format with one row and with a prefill chunk of 32, and
attends to 1,000 positions. Ours and torch's take turns, and each time is the median over the turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from testbed.decoder import kernels
from testbed.decoder.kernels import Attention, Packed
from testbed.formats import FORMATS, PLAIN

CHUNK = 32
LENGTH, QUERIES, HEAD_DIM = 1000, 3, 64  # of attention: SmolLM2's group
LEVELS = ("plain", "AVX2", "AVX-512")


def taking_turns(calls: dict[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """The median seconds of each call."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(found) for name, found in seconds.items()}


def products(rows: int, columns: int, turns: int) -> dict[str, dict[str, float]]:
    """Of each format and of torch: packed GB/s with one row, and 10^9 multiplications a second with a chunk."""
    numbers = np.random.default_rng(0).normal(size=(rows + CHUNK, columns)).astype(np.float32)
    matrix, x = numbers[:rows], numbers[rows:]
    packed = {name: Packed(name, rows, columns, kernels.quantise(name, matrix)) for name in FORMATS}
    whole, chunk = torch.from_numpy(matrix), torch.from_numpy(x)
    one: dict[str, Callable[[], object]] = {"torch": lambda: torch.nn.functional.linear(chunk[:1], whole)}
    many: dict[str, Callable[[], object]] = {"torch": lambda: torch.nn.functional.linear(chunk, whole)}
    for name, w in packed.items():
        one[name] = lambda w=w: kernels.matmul(w, x[:1])  # type: ignore[misc]
        many[name] = lambda w=w: kernels.matmul(w, x)  # type: ignore[misc]
    single, chunked = taking_turns(one, turns), taking_turns(many, max(1, turns // 8))
    sizes = {name: w.data.size for name, w in packed.items()} | {"torch": 4 * rows * columns}
    return {
        name: {
            "one_row_us": seconds * 1e6,
            "one_row_GBps": sizes[name] / seconds / 1e9,
            "chunk_GMACps": CHUNK * rows * columns / chunked[name] / 1e9,
        }
        for name, seconds in single.items()
    }


def attention(turns: int) -> dict[str, dict[str, float]]:
    """Of each format of a cache and of torch: microseconds for one row and for a chunk, after 1,000 positions."""
    rng = np.random.default_rng(1)
    qkv = rng.normal(size=(CHUNK, (QUERIES + 2) * HEAD_DIM)).astype(np.float32)
    cached = rng.normal(size=(LENGTH, HEAD_DIM)).astype(np.float32)
    q = torch.from_numpy(qkv[:, : QUERIES * HEAD_DIM].reshape(1, CHUNK, QUERIES, HEAD_DIM)).transpose(1, 2)
    past = torch.from_numpy(cached)[None, None].expand(1, QUERIES, LENGTH, HEAD_DIM)
    mask = torch.ones(CHUNK, LENGTH, dtype=torch.bool).tril(LENGTH - CHUNK)
    attend = torch.nn.functional.scaled_dot_product_attention
    one: dict[str, Callable[[], object]] = {"torch": lambda: attend(q[:, :, :1], past, past)}
    many: dict[str, Callable[[], object]] = {"torch": lambda: attend(q, past, past, attn_mask=mask)}
    for name in PLAIN:
        keys, values = (bytearray(kernels.pack(name, cached)) for _ in range(2))
        ours = Attention(name, keys, values, LENGTH, QUERIES, HEAD_DIM, HEAD_DIM**-0.5)
        one[name] = lambda ours=ours: kernels.attend(ours, qkv[:1], LENGTH - 1)  # type: ignore[misc]
        many[name] = lambda ours=ours: kernels.attend(ours, qkv, LENGTH - CHUNK)  # type: ignore[misc]
    single, chunked = taking_turns(one, turns), taking_turns(many, max(1, turns // 8))
    return {name: {"one_row_us": single[name] * 1e6, "chunk_us": chunked[name] * 1e6} for name in single}


def call_us(calls: int = 20_000) -> float:
    """The microseconds of a product so small that only the call counts."""
    w, x = Packed("q8_0", 1, 32, kernels.quantise("q8_0", np.ones((1, 32), np.float32))), np.ones((1, 32), np.float32)
    started = time.perf_counter()
    for _ in range(calls):
        kernels.matmul(w, x)
    return (time.perf_counter() - started) / calls * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=80)
    parser.add_argument("--rows", type=int, default=1536)
    parser.add_argument("--columns", type=int, default=576)
    parser.add_argument("--level", type=int, choices=range(len(LEVELS)), help="0 plain, 1 AVX2, 2 AVX-512")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    library = kernels.library()
    level = library.best_level() if given.level is None else given.level
    library.use_level(level)
    found = products(given.rows, given.columns, given.turns)
    line = {
        "benchmark": "kernels",
        "ratio": found["torch"]["one_row_us"] / found["q4_1"]["one_row_us"],
        "unit": "times faster in q4_1",
        "peer": f"torch's product of a float32 matrix {given.rows} x {given.columns} with one row, one thread",
        "processor": LEVELS[level],
        "call_us": call_us(),
        "products": found,
        "attention": attention(given.turns),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
