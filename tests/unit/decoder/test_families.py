"""Every family computes what transformers computes, from what transformers saves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from testbed.decoder.checkpoint import check_checkpoint, read_shape, require_model
from testbed.decoder.reference import Reference
from testbed.decoder.stored_weights import StoredWeights
from testbed.placement.blocks import WHOLE, Partition

pytest.importorskip("transformers")
from transformers_cases import CASES, small_model

LENGTH = 200
PROMPT = [5, 17, 3, 88, 42, 9, 60, 31, 2, 77, 54]


def logits_of(
    folder: Path, prompt: list[int], length: int, partition: Partition = WHOLE
) -> tuple[list[int], np.ndarray]:
    """The prompt and the greedy tokens after it, `length` in all, and the logits (length, V) after each, one by one."""
    shape, ids = read_shape(folder), list(prompt)
    reference = Reference(shape, StoredWeights(require_model(folder), shape, partition), length, partition)
    found: list[np.ndarray] = []
    while len(found) < length:
        if len(found) == len(ids):
            ids.append(int(found[-1].argmax()))
        found.append(reference.forward([ids[len(found)]], len(found)))
    return ids, np.stack(found)


@pytest.mark.parametrize("name", CASES)
def test_logits_and_greedy_tokens_are_transformers_own_at_every_position(name: str, tmp_path: Path) -> None:
    model = small_model(name)
    model.save_pretrained(tmp_path)
    check_checkpoint(tmp_path)
    tokens, logits = logits_of(tmp_path, PROMPT, LENGTH)
    expected, found = model(torch.tensor([tokens])).logits[0], torch.from_numpy(logits)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(found.argmax(1), expected.argmax(1))
    assert len(set(tokens)) > 20, "the model settles on few tokens: this comparison could not fail"


@pytest.mark.parametrize("partition", [Partition(4, proj_rows=True, vocab_shards=3), Partition(2)], ids=str)
@pytest.mark.parametrize("name", ["gpt2", "llama-attention-bias", "qwen3-bias", "mistral-window"])
def test_a_finer_cut_of_a_checkpoint_is_the_same_model(name: str, partition: Partition, tmp_path: Path) -> None:
    small_model(name).save_pretrained(tmp_path)
    whole, cut = (logits_of(tmp_path, PROMPT, len(PROMPT), one)[1] for one in (WHOLE, partition))
    np.testing.assert_allclose(cut, whole, rtol=1e-4, atol=1e-4)
