"""Text to token ids: a checkpoint's own tokenizer, or one token per byte for presets."""

from __future__ import annotations

from pathlib import Path

from testbed.errors import ConfigError
from testbed.experiment import Experiment

TOKENIZER = "tokenizer.json"


def prompt_ids(experiment: Experiment) -> list[int]:
    """The prompt's token ids; raises ConfigError when it is empty, too long, or cannot be tokenised."""
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


def _encode(experiment: Experiment) -> list[int]:
    if experiment.prompt.ids is not None:
        return list(experiment.prompt.ids)
    text = experiment.prompt.text or ""
    if experiment.model.path is None:
        return list(text.encode())
    file = Path(experiment.model.path) / TOKENIZER
    if not file.exists():
        raise ConfigError(
            f"{file} is missing: a text prompt needs the checkpoint's tokenizer; or give `prompt: {{ids: […]}}`"
        )
    from tokenizers import Tokenizer

    return list(Tokenizer.from_file(str(file)).encode(text).ids)
