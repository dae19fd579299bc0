"""The tables from which a GGUF file's tokenizer is built, as its metadata has them.

This module checks them; `testbed.words.tables_tokenizer` builds the tokenizer. The keys are those of ggml's
docs/gguf.md, and what a missing key means is what llama.cpp (src/llama-vocab.cpp) takes it for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from testbed.errors import ConfigError
from testbed.strict_yaml import shown

Model = Literal["gpt2", "llama"]
MODELS: tuple[Model, ...] = ("gpt2", "llama")

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""The types of tokens, by the format's numbers."""

# Of an honest file. Gemma 3 has 262,144 tokens, 514,906 merges and 6,415 tokens that are found before a text is cut.
_MOST_TOKENS = 3 * 2**17
_MOST_MERGES = 3 * 2**18
_MOST_MARKED = 2**14
_LONGEST_TOKEN = 512  # characters
_MOST_CHARACTERS = 2**23  # of all tokens

_KEY = "tokenizer.ggml."
TEMPLATE_KEY = "tokenizer.chat_template"
_IDS = ("bos", "eos", "eot", "eom", "unknown", "padding")
_DEFAULT_IDS: Mapping[Model, Mapping[str, int]] = {"gpt2": {}, "llama": {"bos": 1, "eos": 2, "unknown": 0}}

# Tokens that end a text though no key of the file may say so; llama.cpp knows them by their text too.
_ENDS = frozenset(
    ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<|eom_id|>", "</s>")
)


@dataclass(frozen=True, eq=False)
class TokenTables:
    """A checked vocabulary and how text is cut into its tokens."""

    origin: str  # the file, for errors
    model: Model  # gpt2: byte-level BPE; llama: SentencePiece's BPE with bytes as the last resort
    tokens: Sequence[str]
    types: Sequence[int]
    scores: Sequence[float] = ()  # of model llama, which merges by them
    merges: Sequence[str] = ()  # of model gpt2: two tokens with a space between them
    pre: str = ""  # of model gpt2: the name of the pre-tokenizer
    ids: Mapping[str, int] = field(default_factory=dict)  # bos, eos, eot, eom, unknown, padding -> id, if there is one
    add_bos: bool = False
    add_eos: bool = False
    add_space_prefix: bool = False  # of model llama: text begins with a space
    chat_template: str | None = None

    @property
    def ends(self) -> frozenset[int]:
        """The ids of the tokens that end a text."""
        named = {self.ids[name] for name in ("eos", "eot", "eom") if name in self.ids}
        known = {index for index, token in enumerate(self.tokens) if token in _ENDS and self.types[index] == CONTROL}
        return frozenset(named | known)

    def mark(self, name: str) -> str | None:
        """The text of a special token, by its name in `ids`."""
        return self.tokens[self.ids[name]] if name in self.ids else None


def read_tables(value_of: Callable[[str], Any], origin: str) -> TokenTables | None:
    """The tables in a GGUF file's metadata, or None if the file has no tokenizer.

    `value_of(key)` returns a number, a text or a list, or None if the file does not have the key. Raises ConfigError
    naming `origin`, the key and the value.
    """
    read = _Reader(value_of, origin)
    model = read.text("model")
    if model in (None, "none", "no_vocab"):
        return None
    if model not in MODELS:
        raise read.wrong("model", f"{shown(model)}, but only tokenizers of the kinds {' and '.join(MODELS)} are built")
    tokens = [token or f"[EMPTY_{index}]" for index, token in enumerate(read.array("tokens", str) or [])]
    if not tokens:
        raise read.wrong("tokens", "missing or empty, but a tokenizer needs its tokens")
    ids = dict(_DEFAULT_IDS[model])
    for name in _IDS:
        index = read.whole(f"{name}_token_id")
        if index is not None:
            ids[name] = index
    for name, index in ids.items():
        if not 0 <= index < len(tokens):
            raise read.wrong(f"{name}_token_id", f"{index}, but the tokens end at {len(tokens) - 1}")
    spm = model == "llama"
    tables = TokenTables(
        origin, model, tokens,
        types=read.array("token_type", int, len(tokens)) or [NORMAL] * len(tokens),
        scores=read.array("scores", float, len(tokens)) or [] if spm else [],
        merges=[] if spm else read.array("merges", str) or [],
        pre=read.text("pre") or "",
        ids=ids,
        add_bos=read.flag("add_bos_token", spm or read.text("pre") == "llama-bpe"),
        add_eos=read.flag("add_eos_token", False),
        add_space_prefix=read.flag("add_space_prefix", spm),
        chat_template=read.text(TEMPLATE_KEY),
    )  # fmt: skip
    _check(tables, read)
    return tables


def _check(tables: TokenTables, read: _Reader) -> None:
    _refuse_excess(tables, read)
    if tables.model == "llama" and not tables.scores:
        raise read.wrong("scores", "missing, but a tokenizer of the kind llama merges by the scores of its tokens")
    if tables.model == "gpt2" and not tables.merges:
        raise read.wrong("merges", "missing or empty, but a tokenizer of the kind gpt2 needs its merges")
    for wanted, name in ((tables.add_bos, "bos"), (tables.add_eos, "eos")):
        if wanted and name not in tables.ids:
            raise read.wrong(f"add_{name}_token", f"true, but the file has no {_KEY}{name}_token_id")


def _refuse_excess(tables: TokenTables, read: _Reader) -> None:
    """Raise ConfigError for tables whose tokenizer would take long to build, or much memory."""
    marked = sum(kind in (CONTROL, UNKNOWN, USER_DEFINED) for kind in tables.types)
    longest = max(map(len, tables.tokens))
    for key, what, found, most in (
        ("tokens", "tokens", len(tables.tokens), _MOST_TOKENS),
        ("merges", "merges", len(tables.merges), _MOST_MERGES),
        ("token_type", "tokens that are not plain", marked, _MOST_MARKED),
        ("tokens", "characters in one token", longest, _LONGEST_TOKEN),
        ("tokens", "characters in all tokens", sum(map(len, tables.tokens)), _MOST_CHARACTERS),
    ):
        if found > most:
            raise read.wrong(key, f"an array with {found} {what}, but at most {most} are read")


class _Reader:
    """Reads values of the metadata and checks their types."""

    def __init__(self, value_of: Callable[[str], Any], origin: str) -> None:
        self._value_of, self._origin = value_of, origin

    def wrong(self, key: str, what: str) -> ConfigError:
        return ConfigError(f"{self._origin}: {_full(key)} is {what}")

    def text(self, key: str) -> str | None:
        value = self._value_of(_full(key))
        if value is not None and not isinstance(value, str):
            raise self.wrong(key, f"{shown(value)}, but it must be text")
        return value

    def whole(self, key: str) -> int | None:
        value = self._value_of(_full(key))
        if value is not None and type(value) is not int:
            raise self.wrong(key, f"{shown(value)}, but it must be a whole number")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self._value_of(_full(key))
        if value is not None and not isinstance(value, bool):
            raise self.wrong(key, f"{shown(value)}, but it must be true or false")
        return default if value is None else value

    def array(self, key: str, kind: type, length: int | None = None) -> list[Any] | None:
        """The elements of an array, all of one type; None if the file does not have the key."""
        value = self._value_of(_full(key))
        if value is None:
            return None
        if not isinstance(value, list):
            raise self.wrong(key, f"{shown(value)}, but it must be an array")
        if length is not None and len(value) != length:
            raise self.wrong(key, f"an array of {len(value)}, but there are {length} tokens")
        if set(map(type, value)) - {kind}:  # hundreds of thousands of elements
            index, one = next((index, one) for index, one in enumerate(value) if type(one) is not kind)
            raise ConfigError(f"{self._origin}: {_full(key)}[{index}] is {shown(one)}, which is no {kind.__name__}")
        return value


def _full(key: str) -> str:
    return key if key.startswith("tokenizer.") else _KEY + key
