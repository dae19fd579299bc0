"""A checkpoint from the command line: what plans and simulations need of it, and what is refused before a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_cases import CONFIG, tensors_of, write_checkpoint, write_tensors
from gguf_cases import llama_dims, llama_metadata, random_case

from testbed.cli import run

QUICKSTART = str(Path(__file__).parents[3] / "experiments" / "gpt2-star4.yaml")
LONGER = CONFIG | {"n_positions": 512, "vocab_size": 300}
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint without a tokeniser."""
    return write_checkpoint(tmp_path / "own", LONGER)


def replay(capsys: Captured, folder: Path, *arguments: str, code: int = 0) -> tuple[Any, str]:
    """What is printed as JSON (nothing, after an error), and what is told."""
    out = str(folder.parent / "runs")
    own = ["--set", f"model.path={folder}", "--out", out, "--tokens", "8", "--json"]
    assert run(["replay", QUICKSTART, *own, *arguments]) == code
    told = capsys.readouterr()
    if code:
        assert told.out == "" and told.err.startswith("Error: ") and told.err.count("\n") == 1
        assert not Path(out).exists()
        return None, told.err
    return json.loads(told.out), told.err


def test_a_plan_and_a_simulation_need_a_config_only(capsys: Captured, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    plan, _ = replay(capsys, folder, "--dry-run")
    assert plan["prompt_tokens"] == len("Where do the heads go?")
    assert plan["warnings"][-2:] == [
        f"{folder / 'tokenizer.json'} is missing, so the prompt is taken to have a token for each of its 22 bytes",
        f"{folder} has no weights, so only the sim backend can carry this out",
    ]
    summary, _ = replay(capsys, folder, "--backend", "sim")
    assert summary["status"] == "done" and len(summary["tokens"]) == 8
    assert any("tokenizer.json is missing" in note for note in summary["verdict"]["notes"])


def test_a_run_that_computes_needs_weights_and_a_tokeniser(capsys: Captured, folder: Path) -> None:
    assert "tokenizer.json is missing" in replay(capsys, folder, "--backend", "local", code=2)[1]
    (folder / "model.safetensors").unlink()
    assert "can only be simulated, by --backend sim" in replay(capsys, folder, "--backend", "local", code=2)[1]


@pytest.mark.parametrize("how", [["--dry-run"], ["--backend", "sim"], ["--backend", "local"]])
def test_weights_that_are_there_are_checked_whatever_is_asked(capsys: Captured, folder: Path, how: list[str]) -> None:
    tensors = tensors_of(LONGER)
    write_tensors(folder / "model.safetensors", tensors | {"transformer.ln_f.bias": ("F8_E4M3", (4,))})
    assert "'transformer.ln_f.bias' is of type F8_E4M3" in replay(capsys, folder, *how, code=2)[1]
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "pytorch_model.bin: this is a pickle" in replay(capsys, folder, *how, code=2)[1]
    (folder / "pytorch_model.bin").unlink()
    (folder / "config.json").write_text(json.dumps(LONGER | {"quantization_config": {"quant_method": "gptq"}}))
    assert "quantization_config is {'quant_method': 'gptq'}" in replay(capsys, folder, *how, code=2)[1]


def test_compare_and_sweep_ask_for_weights_before_their_first_run(capsys: Captured, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    own, out = ["--set", f"model.path={folder}", "--tokens", "8"], folder.parent / "runs"
    both = ["--backend", "sim", "--backend", "local", "--policy", "greedy", "--out", str(out)]
    assert run(["compare", QUICKSTART, *own, *both]) == 2
    assert "can only be simulated" in capsys.readouterr().err and not out.exists()
    assert run(["compare", QUICKSTART, *own, *both[:2], *both[4:], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["status"] == "done"


def test_a_gguf_file_cut_after_its_header_is_enough_for_a_plan_and_a_simulation(
    capsys: Captured, tmp_path: Path
) -> None:
    case = random_case(llama_metadata(**{"llama.context_length": 512}), llama_dims(), "q8_0")
    file = tmp_path / "own.gguf"
    ids = ["--backend", "local", "--set", "prompt.ids=[1, 2, 3]"]
    kind, dims, data = case.tensors["output_norm.weight"]
    case.tensors["output_norm.weight"] = (kind, dims, data[:-4] + np.array([np.nan], np.float32).tobytes())
    case.write(file)
    assert "tensor 'output_norm.weight' has values that are not numbers" in replay(capsys, file, *ids, code=2)[1]
    file.write_bytes(case.header())
    assert "ends before the last of tensor 'token_embd.weight'" in replay(capsys, file, *ids, code=2)[1]
    plan, _ = replay(capsys, file, "--dry-run")
    assert plan["model"] == "own"
    assert f"{file} has no weights, so only the sim backend can carry this out" in plan["warnings"]
    assert replay(capsys, file, "--backend", "sim")[0]["status"] == "done"
