"""SmolLM2 from its GGUF file, against transformers with the same weights in float32."""

from __future__ import annotations

from benchmarks.smollm2 import PROMPTS, TOLERANCE, agreement, our_decoder, peer_decoder, peer_model, prompt_ids

TOKENS = 12  # `python -m benchmarks.smollm2` compares 64


def test_tokens_are_those_of_transformers_and_logits_nearly() -> None:
    ours, theirs = our_decoder(), peer_decoder(peer_model())  # loaded once for all prompts
    for name in PROMPTS:
        found = agreement(ours, theirs, prompt_ids(name), TOKENS)
        assert found.tokens == TOKENS, name
        assert found.difference < TOLERANCE, name
