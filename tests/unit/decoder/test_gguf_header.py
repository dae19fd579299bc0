"""The header of a GGUF file: what the library `gguf` writes and reads, and every way in which a header lies."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf_cases import GgufCase, Typed, random_bytes, text
from refusals import refusal

from testbed.decoder.gguf_header import ArrayPlace, read_header
from testbed.errors import ConfigError

WORDS = ["<s>", "a", "é", "", "🦙", "x" * 300]
ROW = ("float32", (3, 32), bytes(3 * 32 * 4))


def small(**changes: Any) -> GgufCase:
    """A file with one tensor, which a test makes wrong."""
    case = GgufCase({"general.architecture": "llama", "llama.block_count": 1}, {"one.weight": ROW})
    for name, value in changes.items():
        setattr(case, name, value)
    return case


def error_of(file: Path) -> str:
    return refusal(lambda: read_header(file), begin=str(file))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def test_a_file_that_the_library_writes_is_read_as_the_library_reads_it(file: Path) -> None:
    draw = np.random.default_rng(0)
    writer = GGUFWriter(file, "llama")
    writer.add_block_count(7)
    writer.add_name("é ü")
    writer.add_rope_freq_base(10_000.5)
    writer.add_token_list(WORDS)
    writer.add_token_types([1, 2, 3, 4, 5, 6])
    writer.add_token_scores([0.5, -1.0, 0.0, 1.0, 2.0, 3.0])
    writer.add_array("own.flags", [True, False])
    writer.add_uint64("own.large", 2**63)
    writer.add_int8("own.small", -3)
    writer.add_float64("own.exact", 0.1)
    writer.add_custom_alignment(64)
    formats = {"float32": "F32", "q8_0": "Q8_0", "q6_k": "Q6_K", "bfloat16": "BF16"}
    for form, kind in formats.items():
        raw = np.frombuffer(random_bytes(form, (3, 256), draw), np.uint8).reshape(3, -1)
        writer.add_tensor(f"{form}.weight", raw, raw_dtype=GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header, expected = read_header(file), GGUFReader(file)
    for name, field in expected.fields.items():
        if name.startswith("GGUF."):
            continue
        value = header.metadata[name]
        found = header.array(name) if isinstance(value, ArrayPlace) else value
        assert found == field.contents(), name
    assert [(one.dims, one.offset, one.nbytes) for one in header.tensors.values()] == [
        (tuple(map(int, one.shape[::-1])), one.data_offset, one.n_bytes) for one in expected.tensors
    ]
    assert [one.format for one in header.tensors.values()] == list(formats)
    assert header.first_missing is None and set(header.tensors) == {one.name for one in expected.tensors}


@pytest.mark.parametrize("version", [2, 3])
def test_versions_two_and_three_are_read(file: Path, version: int) -> None:
    assert read_header(small(version=version).write(file)).metadata["llama.block_count"] == 1


def test_a_file_that_changes_is_read_again(file: Path) -> None:
    assert read_header(small().write(file)).metadata["llama.block_count"] == 1
    small(metadata={"llama.block_count": 22}).write(file)
    assert read_header(file).metadata["llama.block_count"] == 22


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"magic": b"GGML"}, "this is not a GGUF file"),
        ({"version": 1}, "is of version 1, but it must be of version 2 or 3"),
        ({"version": 99}, "is of version 99"),
        ({"order": ">"}, "is big-endian"),
        ({"counts": (2**60, None)}, "has 1152921504606846976 tensors, and at most 65536"),
        ({"counts": (None, 2**60)}, "has 1152921504606846976 metadata keys"),
        ({"counts": (3, None)}, "dimensions, but it must have 1 to 4"),
        ({"counts": (None, 3)}, "the name of tensor 0 has 844424930131968 bytes, and at most 65535"),
        ({"metadata": {"a": Typed(8, struct.pack("<Q", 2**40))}}, "has 480 bytes and ends inside the value of 'a'"),
        ({"metadata": {"a": Typed(9, struct.pack("<IQ", 8, 2**60))}}, "has 1152921504606846976 elements"),
        ({"metadata": {"a": Typed(9, struct.pack("<IQ", 8, 2**20))}}, "ends inside the value of 'a'"),
        ({"metadata": {"a": Typed(9, struct.pack("<IQ", 12, 2**20))}}, "ends inside the value of 'a'"),
        ({"metadata": {"a": Typed(9, struct.pack("<IQ", 9, 1))}}, "is an array of type 9"),
        ({"metadata": {"a": Typed(8, struct.pack("<Q", 2) + b"\xff\xfe")}}, "the value of 'a' is not UTF-8 text"),
        ({"metadata": {"a": Typed(77, b"")}}, "the value of 'a' is of type 77"),
        ({"metadata": {"general.alignment": 0}}, "general.alignment is 0, but it must be a power of two"),
        ({"metadata": {"general.alignment": 48}}, "general.alignment is 48"),
        ({"metadata": {"general.alignment": 2**31}}, "general.alignment is 2147483648"),
        ({"metadata": {"general.alignment": "32"}}, "general.alignment is '32'"),
        ({"offsets": {"one.weight": 8}}, "'one.weight' begins at 8, which is not a multiple of the alignment, 32"),
        ({"tensors": {"a": ROW, "b": ROW}, "offsets": {"b": 0}}, "tensors 'a' and 'b' overlap"),
        ({"tensors": {"a": ROW, "b": ROW}, "offsets": {"b": 352}}, "tensors 'a' and 'b' overlap"),
        ({"tensors": {"a": ("float32", (), b"")}}, "'a' has 0 dimensions, but it must have 1 to 4"),
        ({"tensors": {"a": ("float32", (1, 1, 1, 1, 1), b"")}}, "'a' has 5 dimensions"),
        ({"tensors": {"a": ("float32", (0, 4), b"")}}, "'a' has shape [0, 4], which is empty"),
        ({"tensors": {"a": ("q8_0", (4, 33), b"")}}, "is of type Q8_0 and has rows of 33, which is not a multiple"),
        ({"tensors": {"a": ("q6_k", (4, 32), b"")}}, "rows of 32, which is not a multiple of 256"),
    ],
)  # fmt: skip
def test_a_header_that_lies_is_refused_by_name(file: Path, changes: dict[str, Any], told: str) -> None:
    assert told in error_of(small(**changes).write(file))


@pytest.mark.parametrize("what", ["key", "tensor"])
def test_a_name_that_comes_twice_is_refused(file: Path, what: str) -> None:
    content = small(tensors={"a": ROW, "b": ROW}, metadata={"kay": 1, "key": 2}).content()
    old, new = (text("kay"), text("key")) if what == "key" else (text("a"), text("b"))
    file.write_bytes(content.replace(old, new, 1))
    assert ("has the metadata key 'key' twice" if what == "key" else "has the tensor 'b' twice") in error_of(file)


def test_every_shorter_file_is_refused_or_lacks_a_tensor_by_name(file: Path) -> None:
    content, header = small().content(), len(small().header())
    for size in range(0, len(content), 7):
        file.write_bytes(content[:size])
        if size < header - 32:
            assert "truncated" in error_of(file) or size < 4
        elif size >= header:
            assert read_header(file).first_missing == "one.weight"


def test_a_type_that_is_not_read_keeps_its_name(file: Path) -> None:
    case = small(tensors={"a": (16, (4, 256), bytes(264)), "b": (99, (4, 256), b"")})
    assert [one.format for one in read_header(case.write(file)).tensors.values()] == ["IQ2_XXS", "number 99"]


def test_a_long_text_is_read_on_demand(file: Path) -> None:
    long = "é" * 2**20
    header = read_header(small(metadata={"tokenizer.huggingface.json": long}).write(file))
    assert isinstance(header.metadata["tokenizer.huggingface.json"], ArrayPlace)
    assert header.array("tokenizer.huggingface.json") == [long]


def test_an_array_that_is_not_there_or_no_text_is_one_sentence(file: Path) -> None:
    broken = Typed(9, struct.pack("<IQ", 8, 2) + text("a") + struct.pack("<Q", 1) + b"\xff")
    header = read_header(small(metadata={"words": broken, "one": 1}).write(file))
    for key, told in (("gone", "gone is nothing"), ("one", "one is 1"), ("words", "words[1] is not UTF-8 text")):
        with pytest.raises(ConfigError, match=told.replace("[", r"\[")):
            header.array(key)


# The largest headers that are read at all, each full of what costs most.
HOSTILE = {
    "words": {"words": Typed(9, struct.pack("<IQ", 8, 2**21) + bytes(8 * 2**21))},
    "keys": {f"{index:01000d}": "x" for index in range(60_000)},
    "texts": {f"{index:05d}": "x" + "🦙" * 250 for index in range(60_000)},
    "numbers": {f"{index:05d}": Typed(9, struct.pack("<IQ", 0, 2**20) + bytes(2**20)) for index in range(62)},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_the_largest_header_is_read_in_ten_seconds_and_500_MB(file: Path, what: str) -> None:
    small(metadata=HOSTILE[what]).write(file)
    assert file.stat().st_size > 15e6
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom testbed.decoder.gguf_header import read_header\n"
        "start = time.process_time()\nread_header(Path(sys.argv[1]))\n"
        "peak = Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0]\n"  # ru_maxrss is the parent's
        "print(time.process_time() - start, peak)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    seconds, kilobytes = map(float, done.stdout.split())
    assert seconds < 10 and kilobytes < 500_000
