"""Turns the prompt into token ids: by the checkpoint's tokenizer, or for presets with a token for each byte."""

from __future__ import annotations

from pathlib import Path

from testbed.errors import ConfigError
from testbed.experiment.schema import Experiment
from testbed.files import read_text

TOKENIZER = "tokenizer.json"


def prompt_ids(experiment: Experiment, computed: bool = True) -> list[int]:
    """The token ids of the prompt; raises ConfigError if it is empty, too long or cannot be tokenised.

    If nothing is `computed`, only their number matters. Then a missing tokenizer is no error, and `assumed_of_prompt`
    says which number is assumed.
    """
    if not computed and _lacks_tokenizer(experiment):
        ids = [0] * experiment.most_prompt_tokens
    else:
        ids = _encode(experiment)
    shape = experiment.shape
    if not ids:
        raise ConfigError(f"{experiment.name}: the prompt has no tokens; it needs at least one")
    outside = [token for token in ids if not 0 <= token < shape.vocab]
    if outside:
        raise ConfigError(
            f"{experiment.name}: prompt token {outside[0]} is outside {shape.name}'s vocabulary of {shape.vocab}"
        )
    if len(ids) + experiment.tokens > shape.positions:
        raise ConfigError(
            f"{experiment.name}: {len(ids)} prompt tokens and {experiment.tokens} more are over "
            f"{shape.name}'s {shape.positions} positions; ask for fewer tokens"
        )
    return ids


def assumed_of_prompt(experiment: Experiment) -> list[str]:
    """A sentence on the length that `prompt_ids` assumes without a tokenizer; empty if there is a tokenizer."""
    if not _lacks_tokenizer(experiment):
        return []
    return [
        f"{_tokenizer_of(experiment)} is missing, so the prompt is taken to have a token for each of its "
        f"{experiment.most_prompt_tokens} bytes"
    ]


def _tokenizer_of(experiment: Experiment) -> Path | None:
    """The tokenizer that a text prompt needs; None for a preset, or if the prompt is given as ids."""
    if experiment.model.path is None or experiment.prompt.ids is not None:
        return None
    return Path(experiment.model.path) / TOKENIZER


def _lacks_tokenizer(experiment: Experiment) -> bool:
    file = _tokenizer_of(experiment)
    return file is not None and not file.exists()


def _encode(experiment: Experiment) -> list[int]:
    if experiment.prompt.ids is not None:
        return list(experiment.prompt.ids)
    text = experiment.prompt.text or ""
    file = _tokenizer_of(experiment)
    if file is None:
        return list(text.encode())
    if not file.exists():
        raise ConfigError(
            f"{file} is missing: a text prompt needs the checkpoint's tokenizer; or give `prompt: {{ids: […]}}`"
        )
    return tokenise(file, text)


def tokenise(file: Path, text: str) -> list[int]:
    """The ids of the whole text by a tokenizer.json; raises ConfigError naming the file."""
    from tokenizers import Tokenizer

    content = read_text(file)
    try:
        tokenizer = Tokenizer.from_str(content)
        # The file may contain the length with which its model was trained; like transformers, we want the whole text.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return list(tokenizer.encode(text).ids)
    except Exception as error:  # the library raises plain `Exception`
        reason = ascii(" ".join(str(error).split()))[1:-1][:160]
        raise ConfigError(f"{file}: this is not a tokenizer that can be used: {reason}") from error
