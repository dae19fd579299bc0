"""What a checkpoint's headers tell before a run: which file counts, and every way in which it is not a plain GPT-2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from checkpoint_cases import (
    CONFIG,
    header_of,
    shard,
    tensors_of,
    with_length,
    write_checkpoint,
    write_index,
    write_tensors,
)
from refusals import refusal

from testbed.decoder.checkpoint import check_checkpoint, find_model, require_model
from testbed.errors import ConfigError

TENSORS = tensors_of(CONFIG)
FC = "transformer.h.0.mlp.c_fc.weight"
HALVES = {
    "model-00001-of-00002.safetensors": dict(list(TENSORS.items())[:7]),
    "model-00002-of-00002.safetensors": dict(list(TENSORS.items())[7:]),
}
FIRST, SECOND = HALVES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole checkpoint, which a test damages."""
    return write_checkpoint(tmp_path / "small")


def error_of(folder: Path) -> str:
    return refusal(lambda: check_checkpoint(folder), str(folder))


def rewrite(folder: Path, changes: dict[str, Any]) -> None:
    """The single file with some tensors changed, added, or (None) left out."""
    tensors = {name: one for name, one in (TENSORS | changes).items() if one is not None}
    write_tensors(folder / "model.safetensors", tensors)


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_a_whole_checkpoint_is_taken_in_one_file_and_in_shards(tmp_path: Path, prefix: str) -> None:
    folder = write_checkpoint(tmp_path / "small", prefix=prefix)
    check_checkpoint(folder)
    shard(folder, HALVES)
    check_checkpoint(folder)
    assert set(require_model(folder).tensors) == set(TENSORS)


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_floating_point_weights_are_taken_also_mixed(folder: Path, dtype: str) -> None:
    rewrite(folder, {FC: (dtype, TENSORS[FC][1])})
    check_checkpoint(folder)


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "I8", "U8", "I16", "I32", "I64", "BOOL"])
def test_a_tensor_of_another_type_is_named(folder: Path, dtype: str) -> None:
    rewrite(folder, {FC: (dtype, TENSORS[FC][1])})
    assert f"tensor '{FC}' is of type {dtype}, but it must be one of F64, F32, F16, BF16" in error_of(folder)
    shard(folder, {"a.safetensors": TENSORS | {FC: (dtype, TENSORS[FC][1])}})
    assert f"is of type {dtype}" in error_of(folder)


@pytest.mark.parametrize(
    "extra",
    [
        {"transformer.h.0.mlp.c_fc.qweight": ("I32", (1, 6)), FC: None},  # GPTQ, AWQ
        {"transformer.h.0.mlp.c_fc.SCB": ("F32", (6,)), FC: ("I8", (4, 6))},  # bitsandbytes
        {"transformer.h.0.mlp.c_fc.weight_scale_inv": ("F32", (1, 1)), FC: ("F8_E4M3", (4, 6))},
    ],
)
def test_quantised_weights_are_refused_however_they_are_stored(folder: Path, extra: dict[str, Any]) -> None:
    rewrite(folder, extra)
    assert "quantised weights must be turned back" in error_of(folder)


def test_the_masks_that_older_versions_stored_are_no_weights(folder: Path) -> None:
    rewrite(folder, {"transformer.h.0.attn.bias": ("BOOL", (1, 1, 8, 8)), "h.0.attn.masked_bias": ("F32", ())})
    check_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({FC: None}, f"has no tensor '{FC}', which config.json asks for"),
        ({FC: ("F32", (6, 4))}, f"tensor '{FC}' has shape [6, 4], but config.json asks for [4, 6]"),
        ({FC: ("F32", (24,))}, "has shape [24]"),
        ({FC: None, "model." + FC: TENSORS[FC]}, f"'model.{FC}' is not the name it has in a GPT-2"),
        ({"transformer.h.1.ln_1.weight": ("F32", (4,))}, "'transformer.h.1.ln_1.weight' is no part of the GPT-2"),
        ({"transformer.h.0.mlp.c_fc.lora_A.weight": ("F32", (4, 2))}, "is no part of the GPT-2"),
        ({"wte.weight": TENSORS["transformer.wte.weight"]}, "'wte.weight' is no part of the GPT-2"),
        ({"a\x1b[2Jb" * 500: ("F32", (1,))}, "is no part of the GPT-2"),
        ({"lm_head.weight": ("F32", (15, 4))}, "tensor 'lm_head.weight' has shape [15, 4]"),
    ],
)
def test_tensors_that_do_not_make_the_configs_model_are_named(folder: Path, changes: dict[str, Any], told: str) -> None:
    rewrite(folder, changes)
    assert told in error_of(folder)


def test_an_unknown_prefix_is_told(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "small", prefix="gpt.")
    assert "has no tensor 'wte.weight', which config.json asks for; 'gpt.wte.weight' is not" in error_of(folder)


def test_an_untied_head_must_be_there(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | {"tie_word_embeddings": False}))
    assert "has no tensor 'lm_head.weight'" in error_of(folder)


def test_a_tied_head_may_be_stored_again_but_not_another_one(folder: Path) -> None:
    head = {"lm_head.weight": ("F32", (16, 4))}
    rewrite(folder, head)
    check_checkpoint(folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x3f")  # its last number; transformers would then not tie the two
    assert "lm_head.weight differs from transformer.wte.weight, though config.json ties the two" in error_of(folder)


def test_the_single_file_counts_where_there_is_an_index_too(folder: Path) -> None:
    write_index(folder, {"transformer.wte.weight": "elsewhere.safetensors"})
    check_checkpoint(folder)
    assert {one.file for one in require_model(folder).tensors.values()} == {folder / "model.safetensors"}
    rewrite(folder, {FC: None})
    assert FC in error_of(folder)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({FC: "gone.safetensors"}, "gone.safetensors: there is no such file (model.safetensors.index.json names it)"),
        ({FC: "../small/model-00002-of-00002.safetensors"}, "which is no name of a file in this folder"),
        ({FC: "/dev/zero"}, "is in '/dev/zero', which is no name of a file in this folder"),
        ({FC: 7}, f"'{FC}' is in 7, which is no name"),
        ({FC: ""}, "is in '', which is no name"),
        ({FC: "x" * 300}, "File name too long"),
        ({FC: "a\0b"}, "cannot be the name of a file"),
        ({FC: FIRST}, f"{FIRST}: has no tensor '{FC}', but model.safetensors.index.json says so"),
        ({"extra": SECOND}, f"{SECOND}: has no tensor 'extra'"),
        ({FC: None}, f"{SECOND}: has the tensor '{FC}', but model.safetensors.index.json does not name it"),
    ],
)
def test_an_index_that_does_not_agree_with_its_shards_is_named(
    folder: Path, changes: dict[str, Any], told: str
) -> None:
    shard(folder, HALVES)
    weight_map = {name: file for file, tensors in HALVES.items() for name in tensors} | changes
    write_index(folder, {name: file for name, file in weight_map.items() if file is not None})
    assert told in error_of(folder)


def test_a_tensor_in_two_shards_is_named(folder: Path) -> None:
    shard(folder, HALVES)
    write_tensors(folder / FIRST, HALVES[FIRST] | {FC: TENSORS[FC]})
    assert f"{FIRST}: has the tensor '{FC}', but model.safetensors.index.json has it in '{SECOND}'" in error_of(folder)


@pytest.mark.parametrize("index", [b"[]", b"{", b'{"weight_map": []}', b'{"weight_map": 1', b"\xff", b"[" * 10**6])
def test_an_index_that_cannot_be_read_is_named(folder: Path, index: bytes) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_bytes(index)
    assert "model.safetensors.index.json" in error_of(folder)


def altered(**entry: Any) -> bytes:
    """The whole file with another entry for one tensor."""
    header, size = header_of(TENSORS)
    header[FC] |= entry
    return with_length(json.dumps(header).encode()) + bytes(size)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        b"version https://git-lfs.github.com/spec/v1\n",
        altered()[:-1],
        altered() + b"x",
        altered()[:100],
        (1 << 63).to_bytes(8, "little") + b"{}",
        (9 << 20).to_bytes(8, "little") + b" " * (9 << 20),
        with_length(b"{" * 10**5),
        with_length(b"\xff" * 100),
        with_length(b"[]"),
        altered(dtype="FLOAT"),
        altered(dtype="F32" * 10**5),
        altered(dtype=None),
        altered(shape=[-4, 6]),
        altered(shape=[2**40, 2**40]),
        altered(shape=[4, 7]),
        altered(shape="x"),
        altered(data_offsets=[0, 96]),
        altered(data_offsets=[10**12, 10**12 + 96]),
        altered(data_offsets=[96, 0]),
        altered(data_offsets=[0]),
        altered(dtype="\x1b[2J\n"),
    ],
)
def test_a_damaged_file_is_named(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    assert "this is not the safetensors file that the checkpoint needs" in error_of(folder)


def test_a_device_in_place_of_weights_is_refused_at_once(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("/dev/zero")
    assert "it is a device, not a file" in error_of(folder)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "consolidated.00.pth", "last.ckpt"]
)
def test_a_pickle_is_refused_by_name_with_the_way_to_convert_it(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    message = error_of(folder)
    assert f"{folder / name}: this is a pickle" in message
    assert f"M.from_pretrained('{folder}').save_pretrained('{folder}')" in message


@pytest.mark.parametrize("name", ["tf_model.h5", "model-00001-of-00002.safetensors"])
def test_weights_that_are_not_found_by_name_are_not_taken_for_none(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    assert f"{folder / name}: weights must be in model.safetensors, or in shards" in error_of(folder)


def test_an_adapter_is_refused_since_it_changes_the_weights(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    assert "adapter_config.json: an adapter changes the weights" in error_of(folder)


def test_no_weights_at_all_are_only_missed_by_who_needs_them(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "training_args.bin").write_bytes(b"")
    check_checkpoint(folder)
    assert find_model(folder) is None
    with pytest.raises(ConfigError, match="can only be simulated, by --backend sim"):
        require_model(folder)


@pytest.mark.parametrize("name", ["gone", "x" * 300])
def test_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="no such folder|File name too long"):
        check_checkpoint(tmp_path / name)
