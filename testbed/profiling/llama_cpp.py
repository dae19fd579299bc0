"""llama.cpp as an engine to be profiled, through the bindings of the package llama-cpp-python.

`script/setup bench` builds the package; it has no wheels. Only llama.cpp's own functions are called, because the
package's class `Llama` adds Python's time to each token. Everything but the threads is left at llama.cpp's defaults.
"""

from __future__ import annotations

import functools
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from testbed.decoder.kernels import quantise
from testbed.errors import ConfigError, EnvironmentLacks, RunFailed
from testbed.profiling.decoders import ANY_TOKEN, Decoder
from testbed.profiling.gguf_file import write_llama
from testbed.shape import ModelShape
from testbed.temporary import temporary_folder

BATCH = 512  # tokens of a prompt that are computed together


class LlamaCppEngine:
    """llama.cpp with a number of threads."""

    name = "llama.cpp"
    formats: tuple[str, ...] = ("float32", "bfloat16", "float16", "q8_0", "q4_1", "q4_0")
    kv_format = "float16"

    def __init__(self, threads: int) -> None:
        if find_spec("llama_cpp") is None:
            raise EnvironmentLacks(
                "the Python package llama-cpp-python is not installed: `script/setup bench` builds it in some minutes"
            )
        import llama_cpp

        self.version = f"llama-cpp-python {llama_cpp.__version__}"
        self.threads = threads

    def open(self, shape: ModelShape, positions: int) -> Decoder:
        """Return a decoder of random weights in the shape's formats."""
        if not (shape.gated_ffn and shape.norm == "rms" and shape.rope and shape.activation == "silu"):
            raise ConfigError("llama.cpp is profiled with models like Llama only: choose --model smollm2-135m")
        drawn = np.random.default_rng(1)

        def content(name: str, form: str, rows: int, columns: int) -> bytes:
            if rows == 1:
                return np.ones(columns, np.float32).tobytes()
            values = drawn.standard_normal((rows, columns), np.float32) * np.float32(0.05)
            return bytes(quantise(form, values))

        with temporary_folder("headroom-profile-") as folder:
            return LlamaCpp(write_llama(folder / "model.gguf", shape, content), positions, self.threads)


class LlamaCpp:
    """A GGUF file in llama.cpp. The file may be removed once this is made: it stays mapped."""

    def __init__(self, file: Path, positions: int, threads: int) -> None:
        import llama_cpp

        self._api: Any = llama_cpp
        _begin()
        options = llama_cpp.llama_model_default_params()
        options.n_gpu_layers = 0
        self._model = llama_cpp.llama_model_load_from_file(str(file).encode(), options)
        if not self._model:
            raise RunFailed(f"llama.cpp cannot load {file}")
        wanted = llama_cpp.llama_context_default_params()
        wanted.n_ctx, wanted.n_batch, wanted.n_ubatch = positions, BATCH, BATCH
        wanted.n_threads = wanted.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, wanted)
        if not self._context:
            raise RunFailed(f"llama.cpp cannot hold {positions} positions of {file}")
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._ids = (llama_cpp.llama_token * BATCH)(*[ANY_TOKEN] * BATCH)

    def use_threads(self, threads: int) -> None:
        """Compute with so many threads from now on."""
        self._api.llama_set_n_threads(self._context, threads, threads)

    def fill(self, length: int) -> None:
        """Compute a prompt of this length."""
        self._keep(0)
        for start in range(0, length, BATCH):
            self._decode(min(BATCH, length - start))

    def token(self, length: int) -> None:
        """Decode one token that sees `length` positions; those behind it are forgotten."""
        self._keep(length - 1)
        self._decode(1)

    def chunk(self, length: int, rows: int) -> None:
        """Compute `rows` tokens together, after `length` positions."""
        self._keep(length)
        self._decode(rows)
        self._keep(length)

    def close(self) -> None:
        """Give the memory back."""
        self._api.llama_free(self._context)
        self._api.llama_model_free(self._model)

    def _keep(self, length: int) -> None:
        """Forget all positions from `length` on."""
        self._api.llama_memory_seq_rm(self._memory, 0, length, -1)

    def _decode(self, rows: int) -> None:
        code = self._api.llama_decode(self._context, self._api.llama_batch_get_one(self._ids, rows))
        if code:
            raise RunFailed(f"llama.cpp could not compute {rows} tokens: llama_decode returned {code}")
        self._api.llama_get_logits_ith(self._context, -1)  # waits for them


@functools.cache
def _begin() -> Any:
    """Start llama.cpp without its log. The returned callback must live as long as llama.cpp may log."""
    import llama_cpp

    silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(silent, None)
    llama_cpp.llama_backend_init()
    return silent
