"""The choice of the next token, also when the LM head is cut into shards.

Each shard reports its choice: its largest logit, the index of that logit in the whole vocabulary, and a 16-byte digest
of all its logits. A choice is six numbers of four bytes, so that it can be sent like an activation. It is never
rounded, whatever the format of what travels is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from testbed.decoder.kernels import Floats
from testbed.placement.plan import CHOICE_NUMBERS
from testbed.words.sampling import Sampling


def logits_digest(logits: Floats, shard_rows: int | None = None) -> str:
    """A 128-bit digest of the bytes of the logits (V,): equal digests mean bitwise-equal logits.

    With `shard_rows`, it is the digest of the digests of groups of that many logits, which shards can compute.
    """
    if shard_rows is None:
        return _digest(logits).hex()
    starts = range(0, len(logits), shard_rows)
    return _digest_of_digests([_digest(logits[start : start + shard_rows]) for start in starts])


def choose_token(logits: Floats, sampling: Sampling | None, position: int) -> int:
    """The token at a position of the sequence: the first of the largest logits (V,), or the one that is drawn."""
    return int(np.argmax(logits)) if sampling is None else sampling.draw(logits, position)


def choice_of(logits: Floats, first: int) -> Floats:
    """The choice (1, 6) of a shard whose logits begin at index `first` of the vocabulary."""
    best = int(np.argmax(logits))  # the first of equal logits
    numbers = np.empty(CHOICE_NUMBERS, np.int32)
    numbers[0] = logits[best : best + 1].view(np.int32)[0]
    numbers[1] = first + best
    numbers[2:] = np.frombuffer(_digest(logits), np.int32)
    return numbers.view(np.float32)[None]


def best_choice(held: Sequence[Sequence[int]], choices: Sequence[Floats]) -> tuple[int, str]:
    """The token and the digest of the digests, from each device's shards and its choices (1, 6·shards).

    Of equal logits, the one with the lowest index wins, as without shards.
    """
    found: dict[int, np.ndarray] = {}
    for shards, sent in zip(held, choices, strict=True):
        for slot, shard in enumerate(shards):
            found[shard] = sent[0, slot * CHOICE_NUMBERS : (slot + 1) * CHOICE_NUMBERS].view(np.int32)
    ordered = [found[shard] for shard in sorted(found)]
    best = max(ordered, key=lambda numbers: (float(numbers[:1].view(np.float32)[0]), -int(numbers[1])))
    return int(best[1]), _digest_of_digests([numbers[2:].tobytes() for numbers in ordered])


def _digest(logits: Floats) -> bytes:
    return hashlib.blake2b(logits.tobytes(), digest_size=16).digest()


def _digest_of_digests(digests: Sequence[bytes]) -> str:
    return hashlib.blake2b(b"".join(digests), digest_size=16).hexdigest()
