"""Turns an experiment's prompt into tokens by the files of its model, read once however many runs ask for them."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from testbed.errors import ConfigError
from testbed.words.chat import Message
from testbed.words.language import FILES, Language, folder_language

Stamp = tuple[tuple[int, int] | None, ...]  # (time of the last change in ns, bytes) of each file; None: it is not there


def language_of(files: Path) -> Language:
    """What the model's files, a Hugging Face folder, say about its text; raises ConfigError naming the file."""
    return _read_once(files, tuple(_stamp(files / name) for name in FILES))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=4)
def _read_once(files: Path, stamp: Stamp) -> Language:
    return folder_language(files)


@lru_cache(maxsize=16)
def encoded(language: Language, prompt: str | tuple[Message, ...], files: Path) -> tuple[int, ...]:
    """The ids of a text or of a conversation; raises ConfigError if the model's files have no tokenizer or template."""
    tokenizer = language.tokenizer
    if tokenizer is None:
        raise ConfigError(
            f"{files / FILES[0]} is missing: a text prompt needs the checkpoint's tokenizer; or give "
            "`prompt: {ids: […]}`"
        )
    if isinstance(prompt, str):
        return tuple(tokenizer.encode(prompt))
    if language.template is None:
        raise ConfigError(f"{files}: the model has no chat template, so it takes no prompt.chat; give prompt.text")
    return tuple(tokenizer.encode(language.template.render(prompt), whole=False))
