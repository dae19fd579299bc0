"""What a GGUF file says of its model: the same as the Hugging Face folder from which it was converted."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_cases import GgufCase, Typed, gpt2_dims, gpt2_metadata, llama_dims, llama_metadata, random_case
from gguf_models import gguf_of
from refusals import refusal
from transformers_cases import CASES, small_model

from testbed.decoder.checkpoint import check_checkpoint, read_shape, require_model
from testbed.decoder.reference import Reference
from testbed.decoder.store import BlockStore
from testbed.decoder.stored_weights import StoredWeights
from testbed.placement.blocks import blocks_of
from testbed.shape import Rope

# The options that a GGUF file can say; the others have no key, and no file has them.
SAID = [name for name in CASES if name not in ("gpt2-gelu", "gpt2-scaled-by-layer", "qwen2-window", "qwen3-bias")]
PROMPT = [5, 17, 3, 88, 42, 9, 60, 31, 2, 77, 54, 5, 17]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def llama(file: Path, dims: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A Llama with changed metadata; keys are without the architecture, values of None leave a key out."""
    own = {key if "." in key and not key.startswith(("attention.", "rope.")) else f"llama.{key}": value
           for key, value in changes.items()}  # fmt: skip
    return random_case(llama_metadata(**own), llama_dims() if dims is None else dims).write(file)


def error_of(file: Path) -> str:
    return refusal(lambda: check_checkpoint(file), begin=str(file))


@pytest.mark.parametrize("name", SAID)
def test_a_converted_model_has_the_folders_shape_blocks_and_logits(tmp_path: Path, file: Path, name: str) -> None:
    model = small_model(name)
    model.save_pretrained(tmp_path / "model")
    gguf_of(model).write(file)
    check_checkpoint(file)
    shapes = [read_shape(path) for path in (tmp_path / "model", file)]
    if name == "llama-rope-llama3":  # the file has the rule's result instead of the rule
        assert shapes[1].rope is not None and shapes[1].rope.kind == "factors"
        assert replace(shapes[1], rope=shapes[0].rope) == shapes[0]
    else:
        assert shapes[0] == shapes[1]
    sources = [StoredWeights(require_model(path), shapes[0]) for path in (tmp_path / "model", file)]
    stores = [BlockStore(shapes[0], source, 32) for source in sources]
    for block in blocks_of(shapes[0]):
        for store in stores:
            store.add(block)
        first, second = (b"".join(map(bytes, store.payload(block, 0, True))) for store in stores)
        assert first == second, block
    references = [Reference(shape, source, 32) for shape, source in zip(shapes, sources, strict=True)]
    logits = [reference.forward(PROMPT, 0) for reference in references]
    if name == "llama-rope-llama3":
        np.testing.assert_allclose(logits[0], logits[1], rtol=1e-5, atol=1e-5)
    else:
        assert (logits[0] == logits[1]).all()


@pytest.mark.parametrize("value", [1e-5, 1e-6, 1e-12, 2e-4])
def test_a_number_of_32_bits_is_the_decimal_that_was_meant(file: Path, value: float) -> None:
    llama(file, **{"attention.layer_norm_rms_epsilon": value})
    assert read_shape(file).norm_epsilon == value


@pytest.mark.parametrize("packed", [struct.pack("<d", 1e300), struct.pack("<f", 3.4028235e38)])
def test_a_number_that_is_too_large_is_one_sentence(file: Path, packed: bytes) -> None:
    kind = 12 if len(packed) == 8 else 6
    assert "rms_norm_eps is" in error_of(llama(file, **{"attention.layer_norm_rms_epsilon": Typed(kind, packed)}))


def test_dimensions_have_the_defaults_of_llama_cpp(file: Path) -> None:
    absent = dict.fromkeys(("attention.head_count_kv", "rope.freq_base", "rope.dimension_count", "vocab_size"))
    llama(file, llama_dims(kv_heads=4), **absent, **{"tokenizer.ggml.tokens": [str(word) for word in range(96)]})
    shape = read_shape(file)
    assert (shape.kv_heads, shape.head_dim, shape.vocab, shape.rope) == (4, 64, 96, Rope(10_000.0))


@pytest.mark.parametrize("tied", [True, False])
def test_the_embedding_is_tied_where_there_is_no_output(file: Path, tied: bool) -> None:
    llama(file, llama_dims(tied=tied))
    assert read_shape(file).tied_embedding == tied


@pytest.mark.parametrize(
    ("changes", "rope"),
    [
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, Rope(10_000.0, "linear", 4.0)),
        ({"rope.scaling.factor": 4.0}, Rope(10_000.0, "linear", 4.0)),
        ({"rope.scale_linear": 2.0}, Rope(10_000.0, "linear", 2.0)),
        ({"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, Rope(10_000.0)),
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 1.0}, Rope(10_000.0)),
        ({"rope.freq_base": 500_000.0, "rope.scaling.finetuned": True}, Rope(500_000.0)),
    ],
)
def test_rope_is_read_as_llama_cpp_reads_it(file: Path, changes: dict[str, Any], rope: Rope) -> None:
    assert read_shape(llama(file, **changes)).rope == rope


def with_factors(case: GgufCase, factors: list[float], form: str = "float32") -> GgufCase:
    values = np.array(factors, form)
    case.tensors["rope_freqs.weight"] = (form, values.shape, values.tobytes())
    return case


def test_factors_of_rope_are_part_of_the_shape(file: Path) -> None:
    factors = [1.0, 2.5, *[8.0] * 30]
    with_factors(random_case(llama_metadata(), llama_dims()), factors).write(file)
    assert read_shape(file).rope == Rope(10_000.0, "factors", factors=tuple(factors))


@pytest.mark.parametrize(
    ("factors", "changes", "told"),
    [
        ([1.0] * 31, {}, "is of type float32 and shape [31], but it must be of type float32 and shape [32]"),
        ([1.0] * 31 + [0.0], {}, "'rope_freqs.weight' has values that are not positive numbers"),
        ([1.0] * 31 + [float("nan")], {}, "'rope_freqs.weight' has values that are not positive numbers"),
        ([1.0] * 31 + [float("inf")], {}, "'rope_freqs.weight' has values that are not positive numbers"),
        ([2.0] * 32, {"llama.rope.scaling.factor": 2.0}, "has factors of RoPE in rope_freqs.weight, and another rule"),
    ],
)  # fmt: skip
def test_factors_that_cannot_be_right_are_refused(
    file: Path, factors: list[float], changes: dict[str, Any], told: str
) -> None:
    with_factors(random_case(llama_metadata(**changes), llama_dims()), factors).write(file)
    assert told in error_of(file)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"general.architecture": None}, "general.architecture is not there, but it must be one of 'llama', 'qwen2'"),
        ({"general.architecture": "gemma3"}, "general.architecture is 'gemma3'"),
        ({"general.architecture": 7}, "general.architecture is 7"),
        ({"general.architecture": ["llama"]}, "general.architecture is an array of 1 values"),
        ({"general.type": "adapter"}, "general.type is 'adapter', but it must be 'model'"),
        ({"adapter.type": "lora"}, "adapter.type is 'lora'"),
        ({"split.count": 3}, "this is one of 3 parts: join them by `llama-gguf-split --merge`"),
        ({"block_count": None}, "llama.block_count is not there, but it must be a whole number of at least 1"),
        ({"block_count": 0}, "llama.block_count is 0"),
        ({"block_count": 2.0}, "llama.block_count is 2.0"),
        ({"block_count": True}, "llama.block_count is True"),
        ({"block_count": "2"}, "llama.block_count is '2'"),
        ({"block_count": 2**31}, "num_hidden_layers is 2147483648"),
        ({"attention.head_count": [4, 4]}, "llama.attention.head_count is an array of 2 values"),
        ({"attention.head_count_kv": 3}, "num_attention_heads is 4, which is not a multiple of num_key_value_heads, 3"),
        ({"attention.layer_norm_rms_epsilon": None}, "llama.attention.layer_norm_rms_epsilon is not there"),
        ({"attention.layer_norm_rms_epsilon": float("nan")}, "llama.attention.layer_norm_rms_epsilon is nan"),
        ({"attention.key_length": 32}, "llama.rope.dimension_count is 64, but it must be 32"),
        ({"attention.value_length": 32}, "llama.attention.value_length is 32, but it must be 64"),
        ({"rope.dimension_count": 16}, "llama.rope.dimension_count is 16, but it must be 64"),
        ({"rope.scaling.type": "yarn"}, "llama.rope.scaling.type is 'yarn', but it must be 'none' or 'linear'"),
        ({"rope.scaling.attn_factor": 1.2}, "llama.rope.scaling.attn_factor is 1.2"),
        ({"expert_count": 8}, "llama.expert_count is 8, which may change the arithmetic and is not known"),
        ({"logit_scale": 0.5}, "llama.logit_scale is 0.5, which may change the arithmetic and is not known"),
        ({"attention.scale": 0.25}, "llama.attention.scale is 0.25"),
        ({"attention.causal": False}, "llama.attention.causal is False"),
        ({"use_parallel_residual": True}, "llama.use_parallel_residual is True"),
        ({"tensor_data_layout": "other"}, "llama.tensor_data_layout is 'other'"),
        ({"residual_scale": [1.0]}, "llama.residual_scale is an array of 1 values"),
        ({"own_key": 1}, "llama.own_key is 1, which may change the arithmetic and is not known"),
    ],
)  # fmt: skip
def test_metadata_of_another_arithmetic_is_refused_by_name(file: Path, changes: dict[str, Any], told: str) -> None:
    assert told in error_of(llama(file, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"expert_count": 0, "expert_used_count": 0}, {"logit_scale": 1.0}, {"attention.causal": True},
        {"tensor_data_layout": "Meta AI original pth"}, {"general.file_type": 7, "general.tags": ["a", "b"]},
        {"quantize.imatrix.file": "x"}, {"split.count": 1, "split.no": 0}, {"rope.scaling.attn_factor": 1.0},
        {"rope.scaling.original_context_length": 4096}, {"attention.value_length": 64}, {"mistral.own": 1},
    ],
)  # fmt: skip
def test_metadata_that_changes_nothing_is_taken(file: Path, changes: dict[str, Any]) -> None:
    check_checkpoint(llama(file, **changes))


def test_quantised_blocks_of_an_older_layout_are_refused(file: Path) -> None:
    metadata = llama_metadata(**{"general.quantization_version": 1})
    random_case(metadata, llama_dims()).write(file)
    check_checkpoint(file)
    random_case(metadata, llama_dims(), "q4_0").write(file)
    assert "general.quantization_version is 1, but it must be 2: older blocks have other layouts" in error_of(file)


def test_a_gpt2_has_as_many_kv_heads_as_heads(file: Path) -> None:
    random_case(gpt2_metadata(**{"gpt2.attention.head_count_kv": 1}), gpt2_dims()).write(file)
    assert "gpt2.attention.head_count_kv is 1, but there are 2 heads" in error_of(file)


def test_rows_of_queries_that_are_no_whole_heads_are_refused(file: Path) -> None:
    dims = llama_dims() | {"blk.0.attn_q.weight": (250, 256)}
    assert "tensor 'blk.0.attn_q.weight' has 250 rows for 4 heads" in error_of(llama(file, dims))
