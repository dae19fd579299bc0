"""The text of tokens that come one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vocabularies import CORPUS, byte_level, ids_of, sentencepiece

from testbed.words.stream import TextStream

TOKENIZERS = {
    "byte level": byte_level(),
    "SentencePiece": sentencepiece(),
    "no space first": sentencepiece(prefix=False),
}


def pieces(name: str, ids: list[int]) -> list[str]:
    """What the stream gives after each id, and at the end."""
    stream = TextStream(TOKENIZERS[name].decode)
    return [*(stream.add(token) for token in ids), stream.end()]


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data())
def test_the_pieces_together_are_the_text_at_once_whatever_the_ids(name: str, data: st.DataObject) -> None:
    made = TOKENIZERS[name]
    ids = data.draw(st.lists(st.integers(0, made.get_vocab_size() - 1), max_size=24))
    together, at_once = "".join(pieces(name, ids)), made.decode(ids)
    # A byte that is no UTF-8 makes SentencePiece's decoder take back the bytes before it, which have been given.
    assert together == at_once or (name != "byte level" and "\ufffd" in at_once and len(together) <= len(at_once))


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("text", CORPUS)
def test_a_character_of_several_tokens_comes_whole_with_its_last_one(name: str, text: str) -> None:
    found = pieces(name, list(ids_of(TOKENIZERS[name], text)))
    assert "".join(found) == text and found[-1] == ""
    assert not any("\ufffd" in piece for piece in found)


def test_an_emoji_of_four_bytes_is_held_back_until_its_fourth() -> None:
    ids = list(ids_of(TOKENIZERS["byte level"], "𓀀"))
    assert pieces("byte level", ids) == ["", "", "", "𓀀", ""]
    assert pieces("byte level", ids[:2]) == ["", "", "\ufffd"]  # a text may end in the middle of a character


def test_a_special_token_gives_no_text() -> None:
    made = TOKENIZERS["byte level"]
    end = made.token_to_id("<|end|>")
    assert pieces("byte level", [*ids_of(made, "go"), end]) == [*pieces("byte level", list(ids_of(made, "go"))), ""]
