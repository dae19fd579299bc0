"""A checkpoint's tokenizer.json: the whole text in ids, and every file that is no tokenizer in one sentence."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from testbed.errors import ConfigError
from testbed.experiment.prompt import tokenise

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


def write(tmp_path: Path, content: bytes | dict[str, Any]) -> Path:
    file = tmp_path / "tokenizer.json"
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return file


def test_a_text_becomes_its_words_ids(tmp_path: Path) -> None:
    assert tokenise(write(tmp_path, WORDS), "where heads go to") == [0, 1, 2, 3]


def test_truncation_and_padding_that_a_file_kept_from_training_do_not_change_a_prompt(tmp_path: Path) -> None:
    kept = {
        "truncation": {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {
            "strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
            "pad_token": "where",
        },
    }  # fmt: skip
    assert tokenise(write(tmp_path, WORDS | kept), "go go go") == [2, 2, 2]


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
    begun = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        tokenise(file, "where heads go")
    message = str(caught.value)
    assert message.startswith(str(file)) and message.isprintable() and len(message) < 400
    assert time.monotonic() - begun < 1


def test_a_tokenizer_that_never_ends_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="it is a device, not a file"):
        tokenise(file, "where")
