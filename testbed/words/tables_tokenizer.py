"""Builds the tokenizer of a GGUF file from its tables.

The pre-tokenizers are those of llama.cpp (src/llama-vocab.cpp), because a GGUF file names them in its words. The
SentencePiece kind follows the converter of transformers (convert_slow_tokenizer.generate_merges).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from testbed.errors import ConfigError
from testbed.strict_yaml import shown
from testbed.words.tables import CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, TokenTables
from testbed.words.tokenizer import Tokenizer, guarded

if TYPE_CHECKING:
    import tokenizers
    from tokenizers.models import BPE

_SPACE = "\u2581"  # what SentencePiece writes for a space

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_DIGIT = r"\p{N}"
_LLAMA_3 = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN_2 = _LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")

PRE_TOKENIZERS: Mapping[str, tuple[str, ...]] = {
    "gpt-2": (_GPT2,),
    "smollm": (_DIGIT, _GPT2),
    "llama-bpe": (_LLAMA_3,),
    "qwen2": (_QWEN_2,),
}
"""Name of a pre-tokenizer -> patterns that cut a text into words, one after the other."""

_WHOLE_WORDS_FIRST = ("llama-bpe",)  # a word that is a token is that token, whatever the merges would make of it


def build_tokenizer(tables: TokenTables, text: str | None = None) -> Tokenizer:
    """The tokenizer of the tables; raises ConfigError naming the file and what is wrong with them.

    With `text` it is only good for encoding this text, but is built ten times as fast: a token that does not occur in
    the text, as its bytes are written, plays no part in encoding it.
    """
    vocab = {token: index for index, token in enumerate(tables.tokens)}
    if len(vocab) < len(tables.tokens):
        twice = next(token for index, token in enumerate(tables.tokens) if vocab[token] != index)
        raise ConfigError(f"{tables.origin}: tokenizer.ggml.tokens has {shown(twice)} twice")
    if tables.model == "gpt2":
        inner = guarded(tables.origin, lambda: _byte_level(tables, vocab, text))
    else:
        inner = guarded(tables.origin, lambda: _sentencepiece(tables, vocab))
    _mark_special(inner, tables)
    before = [tables.ids["bos"]] if tables.add_bos else []
    after = [tables.ids["eos"]] if tables.add_eos else []
    return Tokenizer(inner, tables.origin, before, after)


def _byte_level(tables: TokenTables, vocab: dict[str, int], text: str | None) -> tokenizers.Tokenizer:
    from tokenizers import Regex, decoders, pre_tokenizers
    from tokenizers import Tokenizer as Inner
    from tokenizers.models import BPE

    if tables.pre not in PRE_TOKENIZERS:
        raise ConfigError(
            f"{tables.origin}: tokenizer.ggml.pre is {shown(tables.pre)}, but it must be one of "
            f"{', '.join(PRE_TOKENIZERS)}"
        )
    bytes_as_letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    merges = tables.merges
    if text is not None:
        letters = "".join(word for word, _ in bytes_as_letters.pre_tokenize_str(text))
        merges = [merge for merge in merges if merge.replace(" ", "") in letters]
        vocab = {token: id for token, id in vocab.items() if token in letters or tables.types[id] != NORMAL}
    inner = Inner(BPE(vocab, [_pair(merge) for merge in merges], ignore_merges=tables.pre in _WHOLE_WORDS_FIRST))
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in PRE_TOKENIZERS[tables.pre]]
    inner.pre_tokenizer = pre_tokenizers.Sequence([*splits, bytes_as_letters])
    inner.decoder = decoders.ByteLevel()
    return inner


def _pair(merge: str) -> tuple[str, str]:
    """The two tokens of a merge. The first one may begin with a space."""
    cut = merge.find(" ", 1)
    return merge[:cut], merge[cut + 1 :]


def _sentencepiece(tables: TokenTables, vocab: dict[str, int]) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, normalizers

    inner = Inner(_by_scores(tables, vocab))
    spaces = normalizers.Replace(" ", _SPACE)
    inner.normalizer = normalizers.Sequence(
        [normalizers.Prepend(_SPACE), spaces] if tables.add_space_prefix else [spaces]
    )
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    inner.decoder = decoders.Sequence(
        [*steps, decoders.Strip(" ", left=1, right=0)] if tables.add_space_prefix else steps
    )
    return inner


def _by_scores(tables: TokenTables, vocab: dict[str, int]) -> BPE:
    """SentencePiece merges the neighbours whose token has the highest score; merges in that order do the same."""
    from tokenizers.models import BPE

    found: list[tuple[float, int, int, str, str]] = []
    for index, token in enumerate(tables.tokens):
        if tables.types[index] not in (NORMAL, UNUSED):
            continue
        pairs = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        known = [pair for pair in pairs if pair[0] in vocab and pair[1] in vocab]
        for left, right in sorted(known, key=lambda pair: (vocab[pair[0]], vocab[pair[1]])):
            found.append((tables.scores[index], len(left), len(right), left, right))
    found.sort(key=lambda merge: merge[:3], reverse=True)
    merges = [(left, right) for *_, left, right in found]
    return BPE(vocab, merges, unk_token=tables.mark("unknown"), fuse_unk=True, byte_fallback=True)


def _mark_special(inner: tokenizers.Tokenizer, tables: TokenTables) -> None:
    """Have the tokenizer find special tokens and those of users in a text before it cuts the rest."""
    from tokenizers import AddedToken

    special = [token for token, kind in zip(tables.tokens, tables.types, strict=True) if kind in (CONTROL, UNKNOWN)]
    users = [token for token, kind in zip(tables.tokens, tables.types, strict=True) if kind == USER_DEFINED]
    inner.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    inner.add_tokens([AddedToken(token, normalized=False) for token in users])
