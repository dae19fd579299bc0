"""A GGUF file as a checkpoint: where it is looked for, how it is held, and every way in which it is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_cases import write_checkpoint
from gguf_cases import GgufCase, gpt2_dims, gpt2_metadata, llama_dims, llama_metadata, random_bytes, random_case
from refusals import refusal

from testbed.decoder.checkpoint import (
    check_checkpoint,
    conversions,
    find_model,
    model_files,
    read_shape,
    require_model,
)
from testbed.decoder.scan import refuse_non_numbers
from testbed.decoder.stored import STORED_FORMATS
from testbed.decoder.widen import SCALES
from testbed.errors import ConfigError
from testbed.shape import WeightFormats

DOWN = "blk.1.ffn_down.weight"


def case(form: str = "float32", **formats: str) -> GgufCase:
    return random_case(llama_metadata(), llama_dims(), form, **formats)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "small.gguf"


def error_of(path: Path) -> str:
    return refusal(lambda: check_checkpoint(path), begin=str(path))


def test_a_folder_with_one_gguf_file_means_that_file(tmp_path: Path, file: Path) -> None:
    case().write(file)
    (tmp_path / "config.json").write_text("{")
    check_checkpoint(tmp_path)
    assert model_files(tmp_path) == file == model_files(file)
    assert read_shape(tmp_path) == read_shape(file) and read_shape(file).name == "small"
    assert require_model(tmp_path).tensors == require_model(file).tensors


def test_a_folder_with_several_gguf_files_is_asked_for_one(tmp_path: Path, file: Path) -> None:
    case().write(file)
    case().write(tmp_path / "other.gguf")
    assert "has 2 .gguf files, 'other.gguf' among them: let model.path name one of them" in error_of(tmp_path)
    check_checkpoint(file)


def test_safetensors_come_before_a_gguf_file_in_their_folder(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "folder")
    case().write(folder / "small.gguf")
    assert model_files(folder) == folder and read_shape(folder).layers == 1


@pytest.mark.parametrize("name", ["gone.gguf", "model.bin"])
def test_a_path_that_is_no_checkpoint_is_one_sentence(tmp_path: Path, name: str) -> None:
    told = "there is no such file" if name.endswith(".gguf") else "must be the folder of a Hugging Face checkpoint"
    assert told in error_of(tmp_path / name)


def test_a_device_in_place_of_a_file_is_refused_at_once(file: Path) -> None:
    file.symlink_to("/dev/zero")
    assert "it is a device, not a file" in error_of(file)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({DOWN: None}, f"has no tensor '{DOWN}', which its metadata asks for"),
        ({"output_norm.weight": None}, "has no tensor 'output_norm.weight', which its metadata asks for"),
        ({DOWN: (256, 256)}, f"tensor '{DOWN}' has shape [256, 256], but its metadata asks for [256, 512]"),
        ({"token_embd.weight": (95, 256)}, "tensor 'token_embd.weight' has shape [95, 256]"),
        ({"output.weight": (95, 256)}, "tensor 'output.weight' has shape [95, 256]"),
        ({"blk.2.attn_norm.weight": (256,)}, "tensor 'blk.2.attn_norm.weight' is no part of the Llama that"),
        ({"blk.0.ffn_gate_inp.weight": (8, 256)}, "tensor 'blk.0.ffn_gate_inp.weight' is no part of the Llama"),
        ({"own\x1b[2J.weight": (8, 256)}, "is no part of the Llama"),
        ({"blk.0.attn_q.bias": (256,)}, "has no tensor 'blk.0.attn_k.bias', which its metadata asks for"),
        ({"blk.00.attn_norm.weight": (256,)}, "has 'blk.00.attn_norm.weight' and 'blk.0.attn_norm.weight', which"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_make_the_model_are_named_as_the_file_does(
    file: Path, changes: dict[str, Any], told: str
) -> None:
    dims = {name: size for name, size in (llama_dims() | changes).items() if size is not None}
    random_case(llama_metadata(), dims).write(file)
    assert told in error_of(file)


def test_a_gpt2s_shapes_are_told_as_the_file_has_them(file: Path) -> None:
    random_case(gpt2_metadata(), gpt2_dims() | {"blk.0.ffn_up.weight": (96, 64)}).write(file)
    assert "tensor 'blk.0.ffn_up.weight' has shape [96, 64], but its metadata asks for [128, 64]" in error_of(file)


def test_a_type_that_is_not_read_is_named(file: Path) -> None:
    made = case()
    made.tensors[DOWN] = (23, (256, 512), bytes(136 * 512))  # IQ4_XS
    made.write(file)
    assert f"tensor '{DOWN}' is of type IQ4_XS, but it must be one of float32, bfloat16" in error_of(file)


def test_a_norm_in_blocks_is_refused(file: Path) -> None:
    made = case()
    draw = np.random.default_rng(0)
    made.tensors["output_norm.weight"] = ("q8_0", (256,), random_bytes("q8_0", (256,), draw))
    made.write(file)
    assert "'output_norm.weight' is of type q8_0, which only a matrix can have" in error_of(file)


@pytest.mark.parametrize("cut", [0, 1, 5000])
def test_a_file_cut_after_its_header_is_only_missed_by_who_needs_weights(file: Path, cut: int) -> None:
    made = case("q8_0")
    content, header = made.content(), len(made.header())
    file.write_bytes(content[: header + cut])
    check_checkpoint(file)
    assert read_shape(file).weights.qkv == "q8_0" and find_model(file) is None
    with pytest.raises(ConfigError, match="truncated: .* ends before the last of tensor 'token_embd.weight'; without"):
        require_model(file)
    file.write_bytes(content[:-40])
    with pytest.raises(ConfigError, match=f"ends before the last of tensor '{DOWN}'"):
        require_model(file)


def test_each_role_is_held_in_the_first_format_that_loses_nothing(file: Path) -> None:
    case("q4_1", token_embd="q8_0", attn_v="q4_0", ffn_gate="q5_0", ffn_up="q8_0", attn_output="q6_k").write(file)
    shape = read_shape(file)
    assert shape.weights == WeightFormats(
        qkv="q4_1", proj="float32", ffn_in="q8_0", ffn_out="q4_1", tokens="q8_0", positions="float32", lm_head="q8_0"
    )
    assert conversions(file, shape) == [
        {"stored": "q4_0", "held": "q4_1", "tensors": 2},
        {"stored": "q4_1", "held": "q4_1", "tensors": 6},
        {"stored": "q5_0", "held": "q8_0", "tensors": 2},
        {"stored": "q6_k", "held": "float32", "tensors": 2},
        {"stored": "q8_0", "held": "q8_0", "tensors": 3},
    ]


def test_a_table_of_positions_is_held_plain(file: Path) -> None:
    random_case(gpt2_metadata(), gpt2_dims(), "q8_0").write(file)
    assert read_shape(file).weights.positions == "float32"
    random_case(gpt2_metadata(), gpt2_dims(), "float16").write(file)
    assert read_shape(file).weights == WeightFormats.all_in("float16")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("form", [*sorted(SCALES), "float32", "float16", "bfloat16", "float64"])
def test_values_that_are_no_numbers_are_found_before_a_run(file: Path, form: str, value: float) -> None:
    made = case(ffn_down=form)
    refuse_non_numbers(require_model(made.write(file)))
    kind, dims, data = made.tensors[DOWN]
    one = bytearray(data)
    last = len(one) - STORED_FORMATS[form].block_bytes
    if form in SCALES:
        at = last + SCALES[form][-1]
        one[at : at + 2] = np.array([value], np.float16).tobytes()
    elif form == "bfloat16":
        one[last:] = np.array([value], np.float32).tobytes()[2:]
    else:
        one[last:] = np.array([value], form).tobytes()
    made.tensors[DOWN] = (kind, dims, bytes(one))
    made.write(file)
    check_checkpoint(file)
    with pytest.raises(ConfigError, match=f"{file}: tensor '{DOWN}' has values that are not numbers: infinite, or NaN"):
        refuse_non_numbers(require_model(file))
