"""Hugging Face checkpoints: what transformers saves is what we load, and what is missing is one sentence."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from decoder_cases import anonymous_bytes
from safetensors.torch import load as load_tensors
from safetensors.torch import load_file, save_file

from testbed.decoder.checkpoint import check_checkpoint, find_tensors
from testbed.decoder.families import read_shape
from testbed.decoder.reference import Reference, chunk_bounds
from testbed.decoder.store import BlockStore
from testbed.decoder.weights import HuggingFaceWeights
from testbed.errors import ConfigError
from testbed.placement.blocks import WHOLE, Block, Partition

transformers = pytest.importorskip("transformers")
torch.set_grad_enabled(False)

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
    names = {kind: set(find_tensors(folder) or ()) for kind, folder in checkpoints.items()}
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
    weights = HuggingFaceWeights(folder, shape, partition)
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


def test_a_shard_that_the_index_names_and_is_not_there_is_named(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    for file in checkpoints["sharded"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    shard.unlink()
    assert shard.name in config_error(lambda: HuggingFaceWeights(tmp_path, read_shape(tmp_path)))


def test_a_folder_without_weights_says_what_is_missing(single: Path) -> None:
    (single / "model.safetensors").unlink()
    message = config_error(lambda: HuggingFaceWeights(single, read_shape(single)))
    assert "no such file, and no model.safetensors.index.json either" in message


def test_a_missing_tensor_is_named(single: Path) -> None:
    rewrite(single, drop="transformer.h.1.mlp.c_fc.weight")
    assert "'transformer.h.1.mlp.c_fc.weight'" in config_error(lambda: load(single, Block("ffn", 1)))
    load(single, Block("ffn", 0))


def test_an_untied_config_over_a_tied_checkpoint_is_refused(single: Path) -> None:
    config = json.loads((single / "config.json").read_text())
    (single / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    assert "'lm_head.weight'" in config_error(lambda: load(single, None))


@pytest.mark.parametrize(
    ("key", "value", "block", "told"),
    [
        ("n_embd", 64, Block("proj", 0), "[48, 48], config.json asks for [64, 64]"),
        ("n_embd", 64, Block("head", 0, 0), "[48], config.json asks for [64]"),
        ("n_inner", 100, Block("ffn", 2), "[48, 192], config.json asks for [48, 100]"),
        ("vocab_size", 98, None, "[99, 48], config.json asks for [98, 48]"),
    ],
)
def test_a_tensor_of_another_shape_than_the_config_says_is_refused(
    single: Path, key: str, value: int, block: Block | None, told: str
) -> None:
    config = json.loads((single / "config.json").read_text())
    (single / "config.json").write_text(json.dumps(config | {key: value}))
    assert told in config_error(lambda: load(single, block))


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", b"", None])
def test_a_file_that_is_not_whole_is_named(single: Path, content: bytes | None) -> None:
    file = single / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4096] if content is None else content)
    assert "model.safetensors" in config_error(lambda: load(single, Block("proj", 0)))


def test_a_shard_without_the_tensor_that_the_index_promises_is_named(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    for file in checkpoints["sharded"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    name = "transformer.h.0.attn.c_proj.weight"
    others = sorted(set(content["weight_map"].values()) - {content["weight_map"][name]})
    content["weight_map"][name] = others[0]
    index.write_text(json.dumps(content))
    message = config_error(lambda: load(tmp_path, Block("proj", 0)))
    assert name in message and others[0] in message


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_loading_never_holds_a_second_copy_of_a_tensor(tmp_path: Path, dtype: torch.dtype) -> None:
    width, vocab = 512, 24_000
    config = {"model_type": "gpt2", "n_embd": width, "n_head": 2, "n_layer": 1, "n_positions": 8, "vocab_size": vocab}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = {
        "wte.weight": torch.full((vocab, width), 0.5, dtype=dtype),
        "wpe.weight": torch.zeros(8, width, dtype=dtype),
        "ln_f.weight": torch.ones(width, dtype=dtype),
        "ln_f.bias": torch.zeros(width, dtype=dtype),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    tensors.clear()
    shape = read_shape(tmp_path)
    store = BlockStore(shape, HuggingFaceWeights(tmp_path, shape), 8)
    highest, over = [anonymous_bytes()], threading.Event()
    before = highest[0]

    def watch() -> None:
        while not over.wait(0.0005):
            highest[0] = max(highest[0], anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    store.add_pinned()
    over.set()
    watcher.join()
    whole = vocab * width * 4  # 49 MB
    assert whole * 0.9 < highest[0] - before < whole + 8 * 2**20
    assert store._embed is not None
    assert bool((store._embed["tokens"].data.view(np.float32) == 0.5).all())


# --- helping -------------------------------------------------------------------------------------------


def load(folder: Path, block: Block | None) -> BlockStore:
    """Load one block of a checkpoint, or what is pinned to the source."""
    shape = read_shape(folder)
    store = BlockStore(shape, HuggingFaceWeights(folder, shape), 8)
    if block is None:
        store.add_pinned()
    else:
        store.add(block)
    return store


def rewrite(folder: Path, drop: str) -> None:
    """The checkpoint without one tensor."""
    tensors = load_tensors((folder / "model.safetensors").read_bytes())
    kept = {name: tensor for name, tensor in tensors.items() if name != drop}
    assert len(kept) == len(tensors) - 1
    save_file(kept, folder / "model.safetensors")


def config_error(call: object) -> str:
    with pytest.raises(ConfigError) as caught:
        call()  # type: ignore[operator]
    message = str(caught.value)
    assert "\n" not in message
    return message
