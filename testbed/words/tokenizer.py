"""A tokenizer: text to token ids and back, by the library `tokenizers`.

It comes from a `tokenizer.json`, or from a GGUF file's tables. Special tokens that a text spells out, like
`<|im_end|>`, are read as such, as in transformers and llama.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from testbed.errors import ConfigError
from testbed.files import read_text

if TYPE_CHECKING:
    import tokenizers

T = TypeVar("T")

# Of a tokenizer.json. Gemma 3's 262,144 tokens and 514,906 merges are 0.3 million keys and 1.4 million texts. With
# the most that is read, the library takes about 450 MB.
_MOST_KEYS = 600_000
_MOST_TEXTS = 1_600_000


class Tokenizer:
    """A tokenizer of the library, and the ids that it puts around a text by itself.

    `origin` is the file from which it was made, for errors.
    """

    def __init__(
        self, inner: tokenizers.Tokenizer, origin: str, before: Sequence[int] = (), after: Sequence[int] = ()
    ) -> None:
        self._inner, self.origin = inner, origin
        self._before, self._after = list(before), list(after)

    @property
    def size(self) -> int:
        """The number of ids, counted up to the largest."""
        return 1 + max(self._inner.get_vocab(with_added_tokens=True).values(), default=-1)

    def encode(self, text: str, whole: bool = True) -> list[int]:
        """The ids of a text. A `whole` text gets what the tokenizer puts around one, such as a first token."""
        ids = guarded(self.origin, lambda: list(self._inner.encode(text, add_special_tokens=whole).ids))
        return [*self._before, *ids, *self._after] if whole else ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens; bytes that are no UTF-8 become U+FFFD."""
        return guarded(self.origin, lambda: str(self._inner.decode(list(ids), skip_special_tokens=True)))


def read_tokenizer(file: Path) -> Tokenizer:
    """The tokenizer in a tokenizer.json; raises ConfigError naming the file."""
    from tokenizers import Tokenizer as Inner

    content = read_text(file)
    for what, found, most in (
        ("keys", content.count('":'), _MOST_KEYS),
        ("texts", content.count('"') // 2, _MOST_TEXTS),
    ):
        if found > most:
            raise ConfigError(f"{file}: the tokenizer has about {found} {what}, but at most {most} are read")
    inner = guarded(str(file), lambda: Inner.from_str(content))
    # The file may contain the length with which its model was trained; like transformers, we want the whole text.
    inner.no_truncation()
    inner.no_padding()
    return Tokenizer(inner, str(file))


def guarded(origin: str, action: Callable[[], T]) -> T:
    """What an action of the library returns; raises ConfigError naming `origin` for whatever it raises."""
    try:
        return action()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # plain `Exception`, or pyo3's PanicException, which is none
        reason = ascii(" ".join(str(error).split()))[1:-1][:160]
        raise ConfigError(f"{origin}: this is not a tokenizer that can be used: {reason}") from error
