"""What a model's files say about its text: its tokenizer, its chat template, and the tokens that end a text.

The files are those of a Hugging Face folder, or the tables of a GGUF file. Where several files of a folder say the same
thing, the one is read that transformers reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from testbed.errors import ConfigError
from testbed.files import read_text
from testbed.strict_json import read_object
from testbed.strict_yaml import shown
from testbed.words.chat import ChatTemplate
from testbed.words.tables import TokenTables
from testbed.words.tables_tokenizer import build_tokenizer
from testbed.words.tokenizer import Tokenizer, read_tokenizer

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
GENERATION_CONFIG = "generation_config.json"
CONFIG = "config.json"
FILES = (TOKENIZER, TOKENIZER_CONFIG, TEMPLATE, GENERATION_CONFIG, CONFIG)

MOST_PADDING = 1024
"""Tokens that a tokenizer may have fewer than its model: models pad to a multiple of 64 to 1024."""

_DEFAULT_TEMPLATE = "default"  # the one of several that transformers takes
_MARKS = ("bos_token", "eos_token", "unk_token", "pad_token")  # special tokens that a template may name
_TABLE_MARKS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


@dataclass(frozen=True, eq=False)
class Language:
    """What a model's files say about its text. The tokenizer is made when it is first asked for."""

    source: Path | TokenTables | None  # a tokenizer.json, or a GGUF file's tables; None if there is no tokenizer
    ends: frozenset[int]  # tokens after which a text is over
    template: ChatTemplate | None

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer, if there is one; raises ConfigError naming the file."""
        if self.source is None:
            return None
        return read_tokenizer(self.source) if isinstance(self.source, Path) else build_tokenizer(self.source)

    def encode(self, text: str, whole: bool = True) -> list[int]:
        """The ids of a text, as the tokenizer has them, without waiting until all of a tokenizer is built."""
        assert self.source is not None
        if isinstance(self.source, Path) or "tokenizer" in vars(self):
            assert self.tokenizer is not None
            return self.tokenizer.encode(text, whole)
        return build_tokenizer(self.source, text).encode(text, whole)

    def check_size(self, vocab: int, model: str) -> None:
        """Raise ConfigError if the tokenizer is not of the size of a model with `vocab` ids."""
        if isinstance(self.source, TokenTables):
            _check_size(len(self.source.tokens), vocab, self.source.origin, model)
        elif self.tokenizer is not None:
            _check_size(self.tokenizer.size, vocab, self.tokenizer.origin, model)

    def tokenizer_for(self, vocab: int, model: str) -> Tokenizer | None:
        """The tokenizer of a model with `vocab` ids; raises ConfigError if it has another size."""
        self.check_size(vocab, model)
        return self.tokenizer


def _check_size(size: int, vocab: int, origin: str, model: str) -> None:
    if size > vocab or size + MOST_PADDING < vocab:
        raise ConfigError(
            f"{origin}: the tokenizer has {size} tokens, but {model} has {vocab}, so it is not this model's"
        )


def folder_language(folder: Path) -> Language:
    """What a Hugging Face folder says; raises ConfigError naming the file and the key."""
    source = folder / TOKENIZER if (folder / TOKENIZER).exists() else None
    return Language(source, _folder_ends(folder), _folder_template(folder))


def tables_language(tables: TokenTables) -> Language:
    """What a GGUF file's tables say."""
    marks = {name: mark for name, own in _TABLE_MARKS.items() if (mark := tables.mark(own)) is not None}
    template = tables.chat_template and ChatTemplate(tables.chat_template, tables.origin, marks)
    return Language(tables, tables.ends, template or None)


def _folder_ends(folder: Path) -> frozenset[int]:
    """The `eos_token_id` of a folder: generation_config.json's, else config.json's."""
    for name in (GENERATION_CONFIG, CONFIG):
        path = folder / name
        if path.exists():
            found = _ids(read_object(path).get("eos_token_id"), f"{path}: eos_token_id")
            if found:
                return found
    return frozenset()


def _ids(value: Any, where: str) -> frozenset[int]:
    """The ids in a number, a list of numbers or nothing."""
    ids = value if isinstance(value, list) else [] if value is None else [value]
    for one in ids:
        if type(one) is not int or one < 0:
            raise ConfigError(f"{where} is {shown(value)}, but it must be a token's id or a list of ids")
    return frozenset(ids)


def _folder_template(folder: Path) -> ChatTemplate | None:
    path = folder / TOKENIZER_CONFIG
    config = read_object(path) if path.exists() else {}
    marks = {name: mark for name in _MARKS if (mark := _content(config.get(name), f"{path}: {name}")) is not None}
    if (folder / TEMPLATE).exists():
        return ChatTemplate(read_text(folder / TEMPLATE), str(folder / TEMPLATE), marks)
    text = _default_template(config.get("chat_template"), f"{path}: chat_template")
    return None if text is None else ChatTemplate(text, str(path), marks)


def _content(mark: Any, where: str) -> str | None:
    """The text of a special token, which may stand in a mapping."""
    text = mark.get("content") if isinstance(mark, Mapping) else mark
    if text is not None and not isinstance(text, str):
        raise ConfigError(f"{where} is {shown(mark)}, but it must be a token's text")
    return text


def _default_template(value: Any, where: str) -> str | None:
    """A template, or the default one of several with names."""
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        raise ConfigError(f"{where} is {shown(value)}, but it must be a template, or a list of templates with names")
    named = {str(one.get("name")): one.get("template") for one in value}
    chosen = named.get(_DEFAULT_TEMPLATE)
    if not isinstance(chosen, str):
        raise ConfigError(f"{where} has the templates {shown(sorted(named))}, but it must have one named default")
    return chosen
