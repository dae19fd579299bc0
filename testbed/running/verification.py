"""Verification: every token's logits are compared with those of the single-process reference.

The reference is computed in a process of its own, forked from the server that has the decoder loaded: its weights and
caches would else stay in the controller's memory.
"""

from __future__ import annotations

from testbed.controller.generation import Outcome
from testbed.decoder.checkpoint import require_model
from testbed.decoder.stored import StoredModel
from testbed.emulation.spawn import call, forkserver
from testbed.experiment.schema import Experiment
from testbed.placement.blocks import Partition
from testbed.shape import ModelShape
from testbed.words.sampling import Sampling


def verify(experiment: Experiment, prompt: list[int], outcome: Outcome) -> tuple[str, str]:
    """Compare every token's logits with the single-process reference.

    Returns `bitwise` or `different`, and one sentence that explains it.
    """
    files = experiment.model.required_files()
    stored = require_model(files) if files is not None else None
    expected = call(
        forkserver(), reference_tokens, experiment.shape, stored, experiment.model.seed,
        experiment.partition, prompt, len(outcome.tokens), experiment.tokens, experiment.prefill_chunk,
        experiment.seeded_sampling,
    )  # fmt: skip
    for step, (token, digest, wanted) in enumerate(zip(outcome.tokens, outcome.digests, expected, strict=True)):
        if (token, digest) != wanted:
            return "different", f"the logits of token {step} differ from the single-process reference"
    return "bitwise", f"the logits of all {len(outcome.tokens)} tokens equal the single-process reference bit for bit"


def reference_tokens(
    shape: ModelShape, stored: StoredModel | None, seed: int, partition: Partition, prompt: list[int], count: int,
    most: int, chunk: int, sampling: Sampling | None,
) -> list[tuple[int, str]]:  # fmt: skip
    """Return (token id, digest of its logits) of the first `count` of `most` tokens, computed in this process."""
    from testbed.decoder.reference import Reference
    from testbed.decoder.weights import weight_source

    reference = Reference(shape, weight_source(stored, shape, seed, partition), len(prompt) + most, partition)
    return [(token.token_id, token.logits_digest) for token in reference.generate(prompt, count, chunk, sampling)]
