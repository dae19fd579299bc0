"""Small tokenizers trained on the spot, and the tables in which a GGUF file would have them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from testbed.words.tables import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED

CORPUS = [
    "Where do the heads go when the link collapses? The heads go home, 12 of them, 345 at most.",
    "It's 3.14 o'clock; WE'LL see, they'd said:\n\n\tthe  heads   move and the text goes on.",
    "日本語のテキスト、また日本語。 Größe und Maß, naïve café. Привет, мир! 😀😀 ok",
    "def f(x):\r\n    return x + 1  # the heads\n",
]
TEXTS = [
    *CORPUS, "", " ", "  x", "\n \n", "12345", "a1b22c333", "½ ² Ⅻ ٣", "ſ 'ſ 'S 'LL 'Re", "\x00\x07\x1b[2J",
    "\u00a0\u2003x",
    "👩‍👩‍👧 e\u0301", "<|end|>go<|end|>", "x<|tool|>y", "\ud7ff\ue000\U0010ffff", "▁▁ ▁a",
]  # fmt: skip
SPECIAL, USERS = "<|end|>", "<|tool|>"

# The pre-tokenizers as the authors of the models wrote them in their tokenizer.json.
HUGGING_FACE: dict[str, list[Any]] = {
    "gpt-2": [pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "smollm": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "llama-bpe": [
        pre_tokenizers.Split(
            Regex(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
                r"|\s+(?!\S)|\s+"
            ),
            "isolated",
        ),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ],
    "qwen2": [
        pre_tokenizers.Split(
            Regex(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
                r"|\s+(?!\S)|\s+"
            ),
            "isolated",
        ),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ],
}


def byte_level(pre: str = "gpt-2", words: int = 400) -> tokenizers.Tokenizer:
    """A byte-level BPE with one of these pre-tokenizers, a special token and one of users."""
    made = tokenizers.Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    made.pre_tokenizer = pre_tokenizers.Sequence(HUGGING_FACE[pre])
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=words, initial_alphabet=alphabet, show_progress=False)
    )
    return _with_special(made)


def sentencepiece(words: int = 400, prefix: bool = True) -> tokenizers.Tokenizer:
    """A BPE in the manner of SentencePiece, with all bytes as the last resort, as Llama 2 has it."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    space = normalizers.Replace(" ", "▁")
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), space] if prefix else [space])
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    special = ["<unk>", "<s>", "</s>", *bytes_]
    trainer = trainers.BpeTrainer(vocab_size=words, special_tokens=special, limit_alphabet=60, show_progress=False)
    made.train_from_iterator(CORPUS, trainer)
    document = _document(made)
    document["added_tokens"] = [one for one in document["added_tokens"] if one["content"] not in bytes_]
    return _with_special(tokenizers.Tokenizer.from_str(_text(document)))


def _with_special(made: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The tokenizer with the two tokens in its model's vocabulary too, where a GGUF file has them."""
    document = _document(made)
    vocab = document["model"]["vocab"]
    for token in (SPECIAL, USERS):
        vocab[token] = len(vocab)
    grown = tokenizers.Tokenizer.from_str(_text(document))
    grown.add_special_tokens([tokenizers.AddedToken(SPECIAL, normalized=False, special=True)])
    grown.add_tokens([tokenizers.AddedToken(USERS, normalized=False)])
    return grown


def metadata_of(made: tokenizers.Tokenizer, pre: str | None = None) -> dict[str, Any]:
    """The metadata of a GGUF file with this tokenizer; a pre-tokenizer's name for a byte-level one."""
    model = _document(made)["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    found: dict[str, Any] = {"tokens": tokens, "token_type": [_type(token) for token in tokens]}
    if pre is not None:
        found |= {"model": "gpt2", "pre": pre, "merges": [" ".join(pair) for pair in model["merges"]]}
        found |= {"eos_token_id": tokens.index(SPECIAL), "add_bos_token": False}
    else:
        ranks = {left + right: -1.0 - rank for rank, (left, right) in reversed(list(enumerate(model["merges"])))}
        found |= {"model": "llama", "scores": [ranks.get(token, 0.0) for token in tokens], "add_bos_token": True}
    return {f"tokenizer.ggml.{key}": value for key, value in found.items()}


def _type(token: str) -> int:
    if token == "<unk>":
        return UNKNOWN
    if token in ("<s>", "</s>", SPECIAL):
        return CONTROL
    if token == USERS:
        return USER_DEFINED
    return BYTE if len(token) == 6 and token.startswith("<0x") else NORMAL


def _document(made: tokenizers.Tokenizer) -> dict[str, Any]:
    document = json.loads(made.to_str())
    assert isinstance(document, dict)
    return document


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document)


def ids_of(made: tokenizers.Tokenizer, text: str) -> Sequence[int]:
    """The ids of a text, without anything around it."""
    return list(made.encode(text, add_special_tokens=False).ids)
