"""The text that a run generates: on a terminal while it comes, and whole at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from testbed.errors import ConfigError
from testbed.experiment.schema import Experiment
from testbed.progress import progress_bar, text_above_bar
from testbed.words.stream import TextStream
from testbed.words.tokenizer import Tokenizer


@contextmanager
def shown(
    experiment: Experiment, tokenizer: Tokenizer | None, stream: bool, progress: bool
) -> Iterator[Callable[[int, int | None], None]]:
    """Show a run's text as it grows if that is asked and the model writes text, else a bar if that is asked.

    Call what the block gets after each token, with the number of tokens and the last one's id.
    """
    total, label = experiment.tokens, experiment.policy
    if tokenizer is None or not stream:
        with progress_bar(progress, total, label) as bar:
            yield lambda done, token: bar(done)
        return
    text = TextStream(tokenizer.decode)
    with text_above_bar(total, label) as show:
        yield lambda done, token: show(done, "" if token is None else text.add(token))
        show(total, text.end())


def text_of(tokens: Sequence[int | None], tokenizer: Tokenizer | None) -> str | None:
    """The text of generated tokens; None if there is no tokenizer, or it has none for them."""
    ids = [token for token in tokens if token is not None]
    if tokenizer is None or len(ids) < len(tokens):
        return None
    try:
        return tokenizer.decode(ids)
    except ConfigError:
        return None
