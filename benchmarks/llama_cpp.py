"""SmolLM2 in our decoder and in llama.cpp, with greedy tokens after the five prompts of `benchmarks.smollm2`.

`python -m benchmarks.llama_cpp` needs the package llama-cpp-python, which `script/setup bench` compiles. llama.cpp is
given two files. One is the model's with every tensor widened to float32, which `gguf` writes into a temporary folder
(540 MB): the tokens must be ours. The other is the packed file itself: there llama.cpp rounds activations to 8 bits,
which is faster, and its tokens part from ours sooner or later; this is told, not judged.
Both contexts have float32 caches and one thread. The last line is JSON, with times per token in turns.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.smollm2 import POSITIONS, Forward, agreements, in_turns, model_file, our_decoder
from testbed.decoder.kernels import Floats


def widened(source: Path, target: Path) -> Path:
    """Write a GGUF file with the metadata of another and all its tensors in float32."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType
    from gguf.quants import dequantize

    reader = GGUFReader(source)
    fields = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    writer = GGUFWriter(target, fields.pop("general.architecture").contents())
    for name, field in fields.items():
        kind, value = field.types[0], field.contents()
        if name == "general.file_type":
            value = int(LlamaFileType.ALL_F32)
        writer.add_key_value(name, value, kind, field.types[-1] if kind == GGUFValueType.ARRAY else None)
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        writer.add_tensor(tensor.name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def llama_decoder(file: Path) -> Forward:
    """A file in llama.cpp, with one thread and float32 caches."""
    import llama_cpp

    model = llama_cpp.Llama(
        str(file), n_ctx=POSITIONS, n_batch=POSITIONS, n_threads=1, n_threads_batch=1, verbose=False,
        type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32,
    )  # fmt: skip

    def forward(ids: Sequence[int], position: int) -> Floats:
        if position == 0:
            model.reset()
            model._ctx.kv_cache_clear()
        model.eval(list(ids))
        last = llama_cpp.llama_get_logits_ith(model.ctx, -1)
        return np.ctypeslib.as_array(last, (model.n_vocab(),)).copy()

    return forward


def main() -> None:
    """Compare, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=64, help="after each prompt")
    parser.add_argument("--rounds", type=int, default=7, help="of measuring; 0: only compare")
    parser.add_argument("--timed", type=int, default=48, help="tokens in a round")
    given = parser.parse_args()
    ours, packed = our_decoder(), llama_decoder(model_file())
    line: dict[str, Any] = {
        "benchmark": "llama_cpp",
        "unit": "times the time per token in q4_1",
        "peer": "llama.cpp with the same file, one thread, which rounds activations to 8 bits",
    }
    with tempfile.TemporaryDirectory(prefix="headroom-widened-") as folder:
        print("the file widened to float32:")
        wide = llama_decoder(widened(model_file(), Path(folder) / "widened.gguf"))
        line["widened"] = agreements(ours, wide, given.tokens)
        del wide
    print("the packed file:")
    line["packed"] = agreements(ours, packed, given.tokens)
    if given.rounds:
        line |= in_turns(ours, packed, given.rounds, given.timed)
    print(json.dumps(line))


if __name__ == "__main__":
    main()
