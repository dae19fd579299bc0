"""Turns an experiment's prompt into tokens by the files of its model, read once however many runs ask for them."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from testbed.decoder.gguf_header import ArrayPlace, read_header
from testbed.errors import ConfigError
from testbed.words.chat import Message
from testbed.words.language import FILES, TOKENIZER, Language, folder_language, tables_language
from testbed.words.tables import read_tables

Stamp = tuple[tuple[int, int] | None, ...]  # (time of the last change in ns, bytes) of each file; None: it is not there


def language_of(files: Path) -> Language:
    """What the model's files say about its text; raises ConfigError naming the file.

    `files` is a Hugging Face folder or a GGUF file. A GGUF file may have no tokenizer.
    """
    return _read_once(files, stamp_of(files))


def stamp_of(files: Path) -> Stamp:
    """Changes with the files that `language_of` reads."""
    return tuple(map(_stamp, [files] if files.is_file() else [files / name for name in FILES]))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=4)
def _read_once(files: Path, stamp: Stamp) -> Language:
    return _gguf_language(files) if files.is_file() else folder_language(files)


def _gguf_language(file: Path) -> Language:
    header = read_header(file)

    def value_of(key: str) -> Any:
        value = header.metadata.get(key)
        return header.array(key) if isinstance(value, ArrayPlace) else value

    tables = read_tables(value_of, str(file))
    return Language(None, frozenset(), None) if tables is None else tables_language(tables)


@lru_cache(maxsize=16)
def encoded(language: Language, prompt: str | tuple[Message, ...], files: Path) -> tuple[int, ...]:
    """The ids of a text or of a conversation; raises ConfigError if the model's files have no tokenizer or template."""
    if language.source is None:
        raise ConfigError(
            f"{missing_tokenizer(files)}: a text prompt needs the checkpoint's tokenizer; or give "
            "`prompt: {ids: […]}`"
        )
    if isinstance(prompt, str):
        return tuple(language.encode(prompt))
    if language.template is None:
        raise ConfigError(f"{files}: the model has no chat template, so it takes no prompt.chat; give prompt.text")
    return tuple(language.encode(language.template.render(prompt), whole=False))


def missing_tokenizer(files: Path) -> str:
    """What is missing of model files without a tokenizer, as the beginning of a sentence."""
    return f"{files} has no tokenizer" if files.is_file() else f"{files / TOKENIZER} is missing"
