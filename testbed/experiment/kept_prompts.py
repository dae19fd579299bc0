"""Remembers the tokens of prompts from one process to the next, in `$TESTBED_PROMPTS` or the user's cache folder.

A simulation needs nothing else of a model's files, and to read them, render a template and build a tokenizer takes half
as long as the rest of a short one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from testbed.files import own_cache
from testbed.version import __version__

MOST_PROMPTS = 32  # the ones that were remembered last
MOST_TOKENS = 4096  # of a prompt that is remembered


def remembered(key: str) -> list[int] | None:
    """The tokens that were remembered under a key of `key_of`; None if there are none, or the file is damaged."""
    ids = _read().get(key)
    return ids if isinstance(ids, list) and ids and all(type(one) is int for one in ids) else None


def remember(key: str, ids: Sequence[int]) -> None:
    """Remember tokens, unless they are very many or the cache folder cannot be written."""
    if len(ids) > MOST_TOKENS:
        return
    kept = {**_read(), key: list(ids)}
    path = _path()
    made = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        made.write_text(json.dumps(dict(list(kept.items())[-MOST_PROMPTS:])))
        made.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            made.unlink(missing_ok=True)


def key_of(prompt: object, files: Path, stamp: object, vocab: int) -> str:
    """A key that changes with the prompt, the files, this package and the day, which a template may write."""
    about = (__version__, time.strftime("%Y-%m-%d"), str(files.absolute()), stamp, prompt, vocab)
    return hashlib.sha256(repr(about).encode()).hexdigest()


def _read() -> dict[str, object]:
    try:
        kept = json.loads(_path().read_text())
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _path() -> Path:
    given = os.environ.get("TESTBED_PROMPTS")
    return Path(given) if given else own_cache() / "prompts.json"
