"""Hugging Face checkpoints: what transformers saves is what we load and compute."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from testbed.decoder.checkpoint import check_checkpoint, read_shape, require_model
from testbed.decoder.reference import Reference, chunk_bounds
from testbed.decoder.stored_weights import StoredWeights
from testbed.errors import ConfigError
from testbed.placement.blocks import WHOLE, Partition

transformers = pytest.importorskip("transformers")
torch.set_grad_enabled(False)
torch.set_num_threads(1)  # more would wait for one another, and tests run on all cores

PROMPT = [5, 17, 3, 88, 42, 9, 60, 31, 2, 77, 54]
TOKENS = 24
KINDS = ("single", "sharded", "untied", "untied-sharded", "bare", "float16")


def make_model(tied: bool = True) -> torch.nn.Module:
    """A GPT-2 with random weights wide enough apart that greedy tokens differ from step to step."""
    torch.manual_seed(3)
    config = transformers.GPT2Config(
        vocab_size=99, n_positions=64, n_embd=48, n_layer=3, n_head=4, tie_word_embeddings=tied, initializer_range=0.2,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).eval()
    for name, tensor in model.named_parameters():  # transformers starts with zero biases and unit norms
        if name.endswith("wpe.weight"):  # or a tied embedding says again what it was given
            tensor.copy_(torch.randn_like(tensor) * 0.8)
        elif tensor.dim() == 1:
            tensor.copy_(torch.randn_like(tensor) * 0.3 + ("ln" in name and name.endswith("weight")))
    return model


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder for each way in which a GPT-2 is stored."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    tied, untied = make_model(), make_model(tied=False)
    tied.save_pretrained(folders["single"])
    tied.save_pretrained(folders["sharded"], max_shard_size="60KB")
    untied.save_pretrained(folders["untied"])
    untied.save_pretrained(folders["untied-sharded"], max_shard_size="60KB")
    tied.transformer.save_pretrained(folders["bare"])
    make_model().half().save_pretrained(folders["float16"])
    return folders


@pytest.fixture
def single(checkpoints: dict[str, Path], tmp_path: Path) -> Iterator[Path]:
    """A copy of the single-file checkpoint that a test may damage."""
    for file in checkpoints["single"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    yield tmp_path


def test_the_cases_are_what_their_names_say(checkpoints: dict[str, Path]) -> None:
    names = {kind: set(require_model(folder).tensors) for kind, folder in checkpoints.items()}
    assert "transformer.wte.weight" in names["single"] and "lm_head.weight" not in names["single"]
    assert "wte.weight" in names["bare"] and not any(name.startswith("transformer.") for name in names["bare"])
    assert "lm_head.weight" in names["untied"] and "lm_head.weight" in names["untied-sharded"]
    assert len(list(checkpoints["sharded"].glob("*.safetensors"))) > 3
    assert load_file(checkpoints["float16"] / "model.safetensors")["transformer.wte.weight"].dtype == torch.float16


@pytest.mark.parametrize("kind", KINDS)
def test_what_transformers_saves_passes_the_check_before_a_run(checkpoints: dict[str, Path], kind: str) -> None:
    check_checkpoint(checkpoints[kind])


def test_a_pickle_is_converted_by_the_command_that_the_refusal_gives(single: Path) -> None:
    tensors = load_file(single / "model.safetensors")
    torch.save(tensors, single / "pytorch_model.bin")
    (single / "model.safetensors").unlink()
    message = config_error(lambda: check_checkpoint(single))
    exec(message.partition('python -c "')[2].rstrip('"'), {})
    check_checkpoint(single)
    converted = load_file(single / "model.safetensors")
    assert all(torch.equal(converted[name], tensor) for name, tensor in tensors.items())


def test_a_tied_head_that_differs_is_untied_by_transformers_and_refused_here(single: Path) -> None:
    tensors = load_file(single / "model.safetensors")
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()
    save_file(tensors, single / "model.safetensors", {"format": "pt"})
    check_checkpoint(single)
    tensors["lm_head.weight"][-1, -1] += 1
    save_file(tensors, single / "model.safetensors", {"format": "pt"})
    assert not torch.equal(
        (model := transformers.GPT2LMHeadModel.from_pretrained(single)).lm_head.weight, model.transformer.wte.weight
    )
    assert "lm_head.weight differs from transformer.wte.weight" in config_error(lambda: check_checkpoint(single))


@pytest.mark.parametrize(
    ("kind", "chunk", "partition"),
    [*((kind, chunk, WHOLE) for kind in KINDS for chunk in (4, 32)),
     ("single", 4, Partition(8)), ("sharded", 32, Partition(2, proj_rows=True)),
     ("single", 32, Partition(vocab_shards=3)), ("untied", 32, Partition(vocab_shards=3))],
)  # fmt: skip
def test_logits_and_greedy_tokens_are_transformers_own(
    checkpoints: dict[str, Path], kind: str, chunk: int, partition: Partition
) -> None:
    folder = checkpoints[kind]
    model = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
    shape = read_shape(folder)
    weights = StoredWeights(require_model(folder), shape, partition)
    reference = Reference(shape, weights, len(PROMPT) + TOKENS, partition)
    for start, end in chunk_bounds(len(PROMPT), chunk):
        logits = reference.forward(PROMPT[start:end], start)
    ids = list(PROMPT)
    for _ in range(TOKENS):
        expected = model(torch.tensor([ids])).logits[0, -1]
        torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-4)
        token = int(expected.argmax())
        assert int(logits.argmax()) == token
        logits = reference.forward([token], len(ids))
        ids.append(token)
    assert len(set(ids[len(PROMPT) :])) > 5, "the model settles on few tokens: this comparison could not fail"


# --- helping -------------------------------------------------------------------------------------------


def config_error(call: object) -> str:
    with pytest.raises(ConfigError) as caught:
        call()  # type: ignore[operator]
    message = str(caught.value)
    assert "\n" not in message
    return message
