"""SmolLM2 from its GGUF file, against transformers with the same weights in float32."""

from __future__ import annotations

import pytest

from benchmarks.smollm2 import PROMPTS, TOLERANCE, Forward, agreement, our_decoder, peer_decoder, peer_model, prompt_ids

TOKENS = 16  # `python -m benchmarks.smollm2` compares 64


@pytest.fixture(scope="module")
def decoders() -> tuple[Forward, Forward]:
    return our_decoder(), peer_decoder(peer_model())


@pytest.mark.parametrize("name", PROMPTS)
def test_tokens_are_those_of_transformers_and_logits_nearly(decoders: tuple[Forward, Forward], name: str) -> None:
    found = agreement(*decoders, prompt_ids(name), TOKENS)
    assert found.tokens == TOKENS
    assert found.difference < TOLERANCE
