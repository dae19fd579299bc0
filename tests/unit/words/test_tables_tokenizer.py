"""Tokenizers from a GGUF file's tables give the ids of the tokenizers that the tables were taken from."""

from __future__ import annotations

from typing import Any

import pytest
import tokenizers
import vocabularies
from hypothesis import given
from hypothesis import strategies as st
from refusals import refusal
from vocabularies import SPECIAL, TEXTS, USERS, byte_level, ids_of, metadata_of, sentencepiece

from testbed.errors import ConfigError
from testbed.words.tables import TokenTables, read_tables
from testbed.words.tables_tokenizer import PRE_TOKENIZERS, build_tokenizer

CASED = "ſ 'ſ 'S 'LL 'Re"  # Hugging Face's patterns take U+017F for an s; llama.cpp's don't


SMALL = {
    "model": "llama", "tokens": ["<unk>", "<s>", "</s>", "a"], "scores": [0.0] * 4, "token_type": [2, 3, 3, 1],
}  # fmt: skip


def tables(metadata: dict[str, Any]) -> TokenTables:
    found = read_tables(metadata.get, "own.gguf")
    assert found is not None
    return found


@pytest.fixture(scope="module", params=PRE_TOKENIZERS)
def pair(request: pytest.FixtureRequest) -> tuple[tokenizers.Tokenizer, Any]:
    trained = byte_level(request.param)
    return trained, build_tokenizer(tables(metadata_of(trained, request.param)))


@pytest.mark.parametrize("text", [text for text in TEXTS if text != CASED])
def test_every_pre_tokenizer_cuts_like_its_models_own(pair: tuple[tokenizers.Tokenizer, Any], text: str) -> None:
    trained, built = pair
    assert built.encode(text) == ids_of(trained, text)
    assert built.decode(built.encode(text)) == text.replace(SPECIAL, "")


@pytest.fixture(scope="module", params=PRE_TOKENIZERS)
def own(request: pytest.FixtureRequest) -> tuple[TokenTables, Any]:
    made = tables(metadata_of(byte_level(request.param), request.param))
    return made, build_tokenizer(made)


@given(
    text=st.lists(st.sampled_from([*"ehst adgo0'\n", "é", "日", SPECIAL, USERS, "the heads", " go"]), max_size=12).map(
        "".join
    )
)
def test_a_tokenizer_built_for_one_text_encodes_it_alike(own: tuple[TokenTables, Any], text: str) -> None:
    made, whole = own
    assert build_tokenizer(made, text).encode(text) == whole.encode(text)


@pytest.mark.parametrize("text", TEXTS)
def test_a_tokenizer_built_for_one_of_the_odd_texts_encodes_it_alike(own: tuple[TokenTables, Any], text: str) -> None:
    made, whole = own
    assert build_tokenizer(made, text).encode(text) == whole.encode(text)


@given(text=st.text(st.characters(exclude_categories=("Cs",), exclude_characters="ſ"), max_size=30))
def test_any_text_is_cut_like_the_models_own(pair: tuple[tokenizers.Tokenizer, Any], text: str) -> None:
    trained, built = pair
    assert built.encode(text) == ids_of(trained, text)
    assert built.decode(built.encode(text)) == text.replace(SPECIAL, "")


def test_smollm_gives_every_digit_a_word_of_its_own_and_gpt_2_does_not() -> None:
    metadata = metadata_of(byte_level(), "gpt-2")
    metadata["tokenizer.ggml.tokens"].append("89")
    metadata["tokenizer.ggml.token_type"].append(1)
    metadata["tokenizer.ggml.merges"].append("8 9")
    lengths = {
        pre: len(build_tokenizer(tables(metadata | {"tokenizer.ggml.pre": pre})).encode("89")) for pre in PRE_TOKENIZERS
    }
    assert lengths == {"gpt-2": 1, "smollm": 2, "llama-bpe": 1, "qwen2": 2}


def test_llama_bpe_takes_a_word_that_is_a_token_whatever_its_merges_say() -> None:
    metadata = metadata_of(byte_level("llama-bpe"), "llama-bpe")
    metadata["tokenizer.ggml.tokens"].append("qqq")
    metadata["tokenizer.ggml.token_type"].append(1)
    index = len(metadata["tokenizer.ggml.tokens"]) - 1
    assert build_tokenizer(tables(metadata)).encode("qqq") == [index]
    assert len(build_tokenizer(tables(metadata | {"tokenizer.ggml.pre": "qwen2"})).encode("qqq")) == 3


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("text", TEXTS)
def test_the_sentencepiece_kind_merges_by_scores_and_falls_back_to_bytes(prefix: bool, text: str) -> None:
    trained = spm(prefix)
    metadata = metadata_of(trained) | {"tokenizer.ggml.add_space_prefix": prefix}
    built = build_tokenizer(tables(metadata))
    assert built.encode(text, whole=False) == ids_of(trained, text)
    assert built.encode(text) == [1, *ids_of(trained, text)]
    if SPECIAL not in text and USERS not in text and "▁" not in text:
        assert built.decode(built.encode(text)) == text


_trained: dict[bool, tokenizers.Tokenizer] = {}


def spm(prefix: bool) -> tokenizers.Tokenizer:
    if prefix not in _trained:
        _trained[prefix] = sentencepiece(prefix=prefix)
    return _trained[prefix]


def test_special_tokens_in_a_text_are_read_as_such() -> None:
    metadata = metadata_of(byte_level(), "gpt-2")
    built = build_tokenizer(tables(metadata))
    special, users = (metadata["tokenizer.ggml.tokens"].index(one) for one in (SPECIAL, USERS))
    ids = built.encode(f"go{SPECIAL}{USERS}")
    assert ids[-2:] == [special, users]
    assert built.decode(ids) == f"go{USERS}"  # what only marks an end is no text


def test_a_first_and_a_last_token_are_put_around_a_whole_text() -> None:
    metadata = metadata_of(byte_level(), "gpt-2")
    end = metadata["tokenizer.ggml.eos_token_id"]
    flags = {
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": True,
        "tokenizer.ggml.bos_token_id": 5,
    }
    built = build_tokenizer(tables(metadata | flags))
    inner = built.encode("go", whole=False)
    assert built.encode("go") == [5, *inner, end]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pre": "tekken"}, "tokenizer.ggml.pre is 'tekken', but it must be one of gpt-2, smollm, llama-bpe, qwen2"),
        ({"pre": None}, "tokenizer.ggml.pre is '', but"),
        (
            {"model": "bert"},
            "tokenizer.ggml.model is 'bert', but only tokenizers of the kinds gpt2 and llama are built",
        ),
        ({"model": 3}, "tokenizer.ggml.model is 3, but it must be text"),
        ({"tokens": []}, "tokenizer.ggml.tokens is missing or empty"),
        ({"tokens": "abc"}, "tokenizer.ggml.tokens is 'abc', but it must be an array"),
        ({"tokens": ["a", 1]}, "tokenizer.ggml.tokens[1] is 1, which is no str"),
        ({"token_type": [1]}, "tokenizer.ggml.token_type is an array of 1, but there are 402 tokens"),
        ({"eos_token_id": 402}, "tokenizer.ggml.eos_token_id is 402, but the tokens end at 401"),
        ({"eos_token_id": -1}, "tokenizer.ggml.eos_token_id is -1"),
        ({"eos_token_id": True}, "tokenizer.ggml.eos_token_id is True, but it must be a whole number"),
        ({"add_bos_token": 1}, "tokenizer.ggml.add_bos_token is 1, but it must be true or false"),
        (
            {"add_bos_token": True},
            "tokenizer.ggml.add_bos_token is true, but the file has no tokenizer.ggml.bos_token_id",
        ),
        ({"merges": None}, "tokenizer.ggml.merges is missing or empty"),
        (
            {"merges": ["zz qq"]},
            "not a tokenizer that can be used: Error while initializing BPE: Token `zz` out of vocabulary",
        ),
        ({"merges": ["alone"]}, "not a tokenizer that can be used"),
        ({"model": "llama"}, "tokenizer.ggml.scores is missing"),
        ({"model": "llama", "scores": [0.0]}, "tokenizer.ggml.scores is an array of 1, but there are 402 tokens"),
    ],
)
def test_tables_that_are_wrong_are_refused_by_key_and_value(changes: dict[str, Any], told: str) -> None:
    metadata = metadata_of(byte_level(), "gpt-2") | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    refusal(lambda: build_tokenizer(tables(metadata)), told, begin="own.gguf: ")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tokens": ["a" * 513]}, "tokens is an array with 513 characters in one token, but at most 512 are read"),
        ({"tokens": [f"{one:0500}" for one in range(17000)]}, "8500000 characters in all tokens, but at most 8388608"),
        (
            {"tokens": [str(one) for one in range(393217)]},
            "tokens is an array with 393217 tokens, but at most 393216",
        ),
        ({"merges": ["a a"] * 786433}, "merges is an array with 786433 merges, but at most 786432 are read"),
        ({"tokens": [str(one) for one in range(20000)], "token_type": [3] * 20000}, "20000 tokens that are not plain"),
    ],
)
def test_tables_that_no_model_has_are_refused_before_anything_is_built(changes: dict[str, Any], told: str) -> None:
    metadata = {
        f"tokenizer.ggml.{key}": value for key, value in ({"model": "gpt2", "merges": ["a a"]} | changes).items()
    }
    with pytest.raises(ConfigError, match=told):
        tables({"tokenizer.ggml.tokens": ["a"]} | metadata)


JUNK = st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=3)


@given(st.dictionaries(st.sampled_from(sorted(metadata_of(sentencepiece()))), JUNK | st.lists(JUNK, max_size=4)))
def test_any_metadata_gives_tables_or_one_sentence(changes: dict[str, Any]) -> None:
    metadata = {f"tokenizer.ggml.{key}": value for key, value in SMALL.items()} | changes
    try:
        found = read_tables(metadata.get, "own.gguf")
        if found is not None:
            build_tokenizer(found).encode("a b")
    except ConfigError as error:
        assert str(error).startswith("own.gguf: ") and str(error).isprintable()


def test_a_token_that_is_there_twice_is_refused() -> None:
    metadata = metadata_of(byte_level(), "gpt-2")
    metadata["tokenizer.ggml.tokens"][7] = metadata["tokenizer.ggml.tokens"][300]
    with pytest.raises(ConfigError, match="tokenizer.ggml.tokens has .* twice"):
        build_tokenizer(tables(metadata))


@pytest.mark.parametrize("model", ["none", "no_vocab", None])
def test_a_file_without_a_tokenizer_has_no_tables(model: str | None) -> None:
    assert read_tables({"tokenizer.ggml.model": model}.get, "own.gguf") is None


def test_a_text_ends_at_the_named_tokens_and_at_those_that_llama_cpp_knows() -> None:
    tokens = ["a", "<|im_end|>", "<|endoftext|>", "</s>", "<|eot_id|>"]
    metadata = {"model": "gpt2", "tokens": tokens, "token_type": [1, 3, 3, 1, 3], "merges": ["a a"], "eot_token_id": 0}
    found = tables({f"tokenizer.ggml.{key}": value for key, value in metadata.items()})
    assert found.ends == {0, 1, 2, 4}  # </s> is a plain word here


def test_the_library_of_vocabularies_trains_the_same_words_twice() -> None:
    assert metadata_of(vocabularies.byte_level()) == metadata_of(vocabularies.byte_level())
