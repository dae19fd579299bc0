"""Checkpoints: config.json, headers of safetensors files, an index of shards, tokenizer.json, headers of GGUF files.

A case is a valid checkpoint in which a random generator changed some things. Drawing each change from hypothesis would
take ten times as long as the readers.
"""

from __future__ import annotations

import copy
from pathlib import Path
from random import Random
from typing import Any

import pytest
from checkpoint_cases import (
    CONFIG,
    ELEMENT_BYTES,
    Dims,
    header_of,
    tensors_of,
    with_length,
    write_checkpoint,
    write_tensors,
)
from documents import ODD_NUMBERS, ODD_TEXTS, as_bytes
from gguf_cases import GgufCase, Typed, llama_dims, llama_metadata, random_case
from hypothesis import given
from hypothesis import strategies as st

from testbed.decoder.checkpoint import check_checkpoint, find_model, read_shape
from testbed.decoder.families import gpt2
from testbed.decoder.stored import stored_bytes
from testbed.placement.blocks import count_blocks
from testbed.words.tokenizer import read_tokenizer

TENSORS = tensors_of(CONFIG)
SHARDS = {"a.safetensors": dict(list(TENSORS.items())[:7]), "b.safetensors": dict(list(TENSORS.items())[7:])}
INDEX = {"metadata": {"total_size": 0}, "weight_map": {name: file for file, names in SHARDS.items() for name in names}}
SETTINGS = {
    "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True, "dtype": "float32",
    "quantization_config": None, "hidden_size": 4, "architectures": ["GPT2LMHeadModel"],
}  # fmt: skip
WORDS: dict[str, Any] = {
    "version": "1.0",
    "truncation": {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
    "added_tokens": [
        {"id": 3, "content": "[UNK]", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": True}
    ],
    "normalizer": {"type": "Lowercase"},
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "model": {"type": "BPE", "vocab": {"g": 0, "o": 1, "go": 2, "[UNK]": 3}, "merges": [["g", "o"]],
              "unk_token": "[UNK]"},
}  # fmt: skip


RANDOM = st.randoms(use_true_random=True)
ODD: list[Any] = [
    None, True, False, *ODD_NUMBERS, *ODD_TEXTS, [], {}, [[]], {"": None}, [{}], [1, "a"], "F8_E4M3", "gpt2", 8,
]  # fmt: skip
GARBAGE = [
    b"", b"\xef\xbb\xbf{}", b"[" * 20_000, b'{"a":' * 20_000, b"1" * 5000, b"\xff\xfe\x00", b"null", b"\x00" * 4096,
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "single")


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder with a config only."""
    folder = write_checkpoint(tmp_path / "bare")
    (folder / "model.safetensors").unlink()
    return folder


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = write_checkpoint(tmp_path / "sharded")
    (folder / "model.safetensors").unlink()
    for name, tensors in SHARDS.items():
        write_tensors(folder / name, tensors)
    return folder


def broken(draw: Random, good: Any, most: int = 3) -> Any:
    """A copy of a document with up to `most` places replaced, left out, renamed or repeated."""
    document = copy.deepcopy(good)
    for _ in range(draw.randint(0, most)):
        parent: Any = document
        while True:
            if not parent:
                break
            key = draw.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
            if not isinstance(parent[key], dict | list) or draw.random() < 0.25:
                break
            parent = parent[key]
        if not parent:
            continue
        change = draw.randrange(5)
        if change == 0:
            del parent[key]
        elif change == 1 and isinstance(parent, dict):
            parent[draw.choice([*ODD_TEXTS, "extra"])] = parent.pop(key)
        elif change == 2 and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[key]))
        else:
            parent[key] = copy.deepcopy(draw.choice([*ODD, draw.randint(-9, 99), draw.random()]))
    return document


def mangled(draw: Random, content: bytes) -> bytes:
    """The content of a file that may have been cut off, overwritten, doubled or replaced; mostly it stays as it is."""
    at = draw.randint(0, len(content))
    other = draw.randbytes(draw.randint(0, 12))
    changes = [content[:at], content[:at] + other + content[at:], content[:at] + other + content[at + len(other) :]]
    changes += [content + content[at:], draw.choice(GARBAGE)]
    return draw.choice(changes) if draw.random() < 0.25 else content


def other_tensors(draw: Random) -> dict[str, tuple[str, Dims]]:
    """The tensors of a valid checkpoint after up to three of them were changed, left out, renamed or added."""
    tensors = dict(TENSORS)
    for _ in range(draw.randint(0, 3)):
        name = draw.choice(list(tensors))
        dtype, dims = tensors[name]
        change = draw.randrange(5)
        if change == 0:
            tensors[name] = draw.choice(list(ELEMENT_BYTES)), dims
        elif change == 1:
            tensors[name] = dtype, draw.choice([dims[::-1], (*dims, 1), (), (0,), (*dims, 0), (*dims[1:], 5)])
        elif change == 2:
            new = draw.choice(["", "\x00", "x" * 300, "lm_head.weight", "x." + name, name.removeprefix("transformer.")])
            tensors[new] = dtype, dims
        else:
            del tensors[name]
            if change == 3:
                tensors[name.removeprefix("transformer.")] = dtype, dims
    return tensors


def check(folder: Path) -> None:
    """A folder that passes the check must hold a complete GPT-2 with types that the decoder reads."""
    check_checkpoint(folder)
    shape, model = read_shape(folder), find_model(folder)
    assert shape.heads * shape.head_dim == shape.width and 0 < shape.norm_epsilon < 1 and count_blocks(shape) > 0
    assert min(shape.layers, shape.ffn_width, shape.vocab, shape.positions) >= 1
    for name, dims in gpt2.tensors(shape) if model is not None else ():
        one = model.tensors[model.prefix + name]
        assert one.dims == dims and one.nbytes == stored_bytes(one.format, dims)
        assert one.offset >= 8 and one.offset + one.nbytes <= one.file.stat().st_size


@given(draw=RANDOM)
def fuzz_a_config(folder: Path, bare: Path, draw: Random) -> None:
    changed = folder if draw.random() < 0.5 else bare
    (changed / "config.json").write_bytes(mangled(draw, as_bytes(broken(draw, CONFIG | SETTINGS))))
    check(changed)


@given(draw=RANDOM)
def fuzz_a_safetensors_file(folder: Path, draw: Random) -> None:
    header, size = header_of(other_tensors(draw))
    content = mangled(draw, with_length(as_bytes(broken(draw, header) if draw.random() < 0.5 else header)))
    (folder / "model.safetensors").write_bytes(content + bytes(max(0, size + draw.choice([0, 0, 0, 0, 1, -1]))))
    check(folder)


@given(draw=RANDOM)
def fuzz_an_index_and_its_shards(sharded: Path, draw: Random) -> None:
    index = mangled(draw, as_bytes(broken(draw, INDEX))) if draw.random() < 0.7 else as_bytes(INDEX)
    (sharded / "model.safetensors.index.json").write_bytes(index)
    if draw.random() < 0.5:
        tensors = {key: one for key, one in other_tensors(draw).items() if key not in SHARDS["a.safetensors"]}
    else:
        tensors = SHARDS["b.safetensors"]
    write_tensors(sharded / "b.safetensors", tensors)
    check(sharded)


# Where lengths, counts, types and offsets lie in the header of a GGUF file: mostly in its small numbers.
GGUF = random_case(
    llama_metadata() | {"tokenizer.ggml.tokens": ["a", "b"], "llama.rope.scaling.type": "none"},
    llama_dims(layers=1), "q4_0", token_embd="q8_0",
)  # fmt: skip
GGUF_VALUES: list[Any] = [
    None, True, 0, 1, 2, 3, 255, 2**31, 2**32 - 1, 0.0, 1.0, -1.0, float("nan"), 1e30, "", "gpt2", "qwen3", "linear",
    "\x00", [], [1], ["a"], Typed(10, b"\xff" * 8), Typed(8, b"\xff" * 8), Typed(9, b"\x08\x00\x00\x00" + b"\xff" * 8),
    Typed(9, b"\x09\x00\x00\x00" * 3), Typed(13, b""), Typed(12, b"\x00" * 8),
]  # fmt: skip


def other_gguf(draw: Random) -> GgufCase:
    """A valid file after some of its metadata and tensors were changed, left out, renamed or added."""
    case = GgufCase(dict(GGUF.metadata), dict(GGUF.tensors))
    for _ in range(draw.randint(0, 3)):
        key = draw.choice([*case.metadata, "llama.own", "general.alignment", "split.count", "llama.expert_count"])
        value = draw.choice(GGUF_VALUES)
        if value is None:
            case.metadata.pop(key, None)
        else:
            case.metadata[key] = value
    for _ in range(draw.randint(0, 2)):
        name = draw.choice(list(case.tensors))
        form, dims, data = case.tensors[name]
        change = draw.randrange(4)
        if change == 0:
            form = draw.choice([0, 1, 2, 8, 12, 14, 24, 28, 30, 99, 2**32 - 1])
        elif change == 1:
            dims = draw.choice([dims[::-1], (*dims, 1), (0,), (2**40, 32), (2**63, 2**63), dims[:1]])
        elif change == 2:
            case.offsets[name] = draw.choice([0, 1, 32, 2**40, 2**63, 2**64 - 32])
        if change == 3:
            del case.tensors[name]
        else:
            case.tensors[name] = (form, dims, data)
    case.counts = draw.choice([(None, None)] * 9 + [(draw.choice([0, 5, 2**60]), draw.choice([0, 5, 2**60]))])
    case.version = draw.choice([3] * 9 + [1, 2, 99, 3 << 24])
    return case


@given(draw=RANDOM)
def fuzz_a_gguf_file(tmp_path: Path, draw: Random) -> None:
    file = tmp_path / "own.gguf"
    file.write_bytes(mangled(draw, other_gguf(draw).content()))
    check_checkpoint(file)
    shape, model = read_shape(file), find_model(file)
    assert shape.heads % shape.kv_heads == 0 and count_blocks(shape) > 0
    for one in model.tensors.values() if model is not None else ():
        assert one.nbytes == stored_bytes(one.format, one.dims)
        assert one.offset > 0 and one.offset + one.nbytes <= file.stat().st_size


@given(draw=RANDOM)
def fuzz_a_tokenizer(bare: Path, draw: Random) -> None:
    file = bare / "tokenizer.json"
    file.write_bytes(mangled(draw, as_bytes(broken(draw, WORDS))))
    text = draw.choice(["go", "Where do the heads go?", "é\n\x00", "g" * 50])
    assert all(isinstance(token, int) and token >= 0 for token in read_tokenizer(file).encode(text))
