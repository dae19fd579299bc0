"""Tokenizers from a tokenizer.json: the whole text in ids, and every file that is no tokenizer in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from refusals import computed_within, refusal
from vocabularies import TEXTS, byte_level, ids_of

from testbed.errors import ConfigError
from testbed.words.language import folder_language
from testbed.words.tokenizer import read_tokenizer

WORDS: dict[str, Any] = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": None,
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"where": 0, "heads": 1, "go": 2, "[UNK]": 3}, "unk_token": "[UNK]"},
}
FIRST = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "go", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"go": {"id": "go", "ids": [2], "tokens": ["go"]}},
}


def write(tmp_path: Path, content: bytes | dict[str, Any]) -> Path:
    file = tmp_path / "tokenizer.json"
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return file


def test_a_text_becomes_its_words_ids(tmp_path: Path) -> None:
    assert read_tokenizer(write(tmp_path, WORDS)).encode("where heads go to") == [0, 1, 2, 3]


@pytest.mark.parametrize("text", TEXTS)
def test_a_file_gives_the_ids_and_the_text_of_the_library(tmp_path: Path, text: str) -> None:
    trained = byte_level()
    ours = read_tokenizer(write(tmp_path, trained.to_str().encode()))
    assert ours.encode(text) == ids_of(trained, text)
    assert ours.decode(ours.encode(text)) == trained.decode(ids_of(trained, text))


def test_what_a_file_puts_around_a_text_is_left_out_of_a_part_of_one(tmp_path: Path) -> None:
    found = read_tokenizer(write(tmp_path, WORDS | {"post_processor": FIRST}))
    assert (found.encode("where"), found.encode("where", whole=False)) == ([2, 0], [0])


def test_truncation_and_padding_that_a_file_kept_from_training_do_not_change_a_prompt(tmp_path: Path) -> None:
    kept = {
        "truncation": {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {
            "strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
            "pad_token": "where",
        },
    }  # fmt: skip
    assert read_tokenizer(write(tmp_path, WORDS | kept)).encode("go go go") == [2, 2, 2]


@pytest.mark.parametrize(("vocab", "fits"), [(3, False), (4, True), (1028, True), (1029, False)])
def test_a_model_may_have_more_ids_than_its_tokenizer_as_far_as_models_pad(
    tmp_path: Path, vocab: int, fits: bool
) -> None:
    file = write(tmp_path, WORDS)
    language = folder_language(tmp_path)
    if fits:
        assert language.tokenizer_for(vocab, "small") is language.tokenizer
        return
    told = f"{file}: the tokenizer has 4 tokens, but small has {vocab}, so it is not this model's"
    assert refusal(lambda: language.tokenizer_for(vocab, "small")) == told


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"{}",
        b"[]",
        b"[" * 10**6,
        b"\xff\xfe",
        b"\x00" * 1000,
        WORDS | {"model": {"type": "\x1b[2J" * 1000}},
        WORDS | {"model": {"type": "BPE", "vocab": {}, "merges": [["a", "b"]]}},
        WORDS | {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}},
        WORDS | {"model": {"type": "WordLevel", "vocab": {"a": -1}, "unk_token": "a"}},
        WORDS | {"model": {"type": "WordLevel", "vocab": {"a": 10**4000}, "unk_token": "a"}},
        WORDS | {"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x"}}]}},
    ],
)
def test_what_is_no_tokenizer_is_one_sentence_within_a_second(tmp_path: Path, content: Any) -> None:
    file = write(tmp_path, content)
    with computed_within(1):
        assert len(refusal(lambda: read_tokenizer(file).encode("where heads go"), begin=str(file))) < 400


@pytest.mark.parametrize(
    ("content", "told"),
    [(b'{"a":0,' * 600_001, "has about 600001 keys, but at most 600000 are read"),
     (b'["a",0],' * 1_600_001, "has about 1600001 texts, but at most 1600000 are read")],
)  # fmt: skip
def test_a_tokenizer_that_would_take_half_a_gigabyte_is_refused_before_it_is_read(
    tmp_path: Path, content: bytes, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        read_tokenizer(write(tmp_path, content))


def test_a_tokenizer_that_never_ends_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="it is a device, not a file"):
        read_tokenizer(file)
