"""`testbed models list` and `show`: counts that are those of placements, in the room that a terminal has."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from testbed.cli import run
from testbed.errors import ConfigError
from testbed.experiment import instances
from testbed.experiment.schema import Experiment
from testbed.models.presets import PRESETS, presets
from testbed.placement.blocks import blocks_of, pinned_bytes, resident_bytes
from testbed.running.dry_run import dry_run
from testbed.running.models import boards_needed, in_formats, kv_bytes_per_token, list_models, show_model, total_bytes
from testbed.topologies.catalogue import boards

ROOT = Path(__file__).parents[3]
Captured = pytest.CaptureFixture[str]


def write_config(folder: Path, name: str) -> Path:
    """A folder with the config.json of a preset and nothing else."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(dict(presets()[name].config)))
    return folder


def test_the_list_has_every_preset_in_80_columns(capsys: Captured) -> None:
    assert run(["models", "list"]) == 0
    table = capsys.readouterr().out
    assert all(len(line) <= 80 for line in table.splitlines())
    assert [line.split()[0] for line in table.splitlines()[1 : 1 + len(PRESETS)]] == list(PRESETS)
    line = next(line for line in table.splitlines() if line.startswith("llama-3.1-8b"))
    assert line.split() == ["llama-3.1-8b", "llama", "32", "32/8", "8.03B", "131072", "14.96", "7.95", "4.21"]


def test_the_list_for_programs_has_every_format_in_bytes(capsys: Captured) -> None:
    assert run(["models", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows == list_models() and [row["name"] for row in rows] == list(PRESETS)
    assert rows[0]["bytes"]["float16"] == total_bytes(in_formats(PRESETS["smollm2-135m"])["float16"])


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_shown_in_80_columns(name: str, capsys: Captured) -> None:
    assert run(["models", "show", name]) == 0
    shown = capsys.readouterr().out
    assert all(len(line) <= 80 or line.startswith(("Context:", name)) for line in shown.splitlines()), shown
    (parameters,) = (row["parameters"] for row in list_models() if row["name"] == name)
    assert f"{parameters:,} parameters" in shown and "raspberry-pi-4" in shown


def test_boards_that_take_one_ffn_each_are_counted_without_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search took 6.6 s of computing to say that 80 FFNs of 2.6 GiB are too many for 70 boards of 4 GiB."""
    monkeypatch.setattr(instances, "pack", lambda rooms, kinds: pytest.fail("a search was asked"))
    assert boards_needed(in_formats(PRESETS["llama-2-70b"])["float32"], 256, 4 * 2**30) is None


def test_a_gguf_file_is_shown_with_the_formats_of_its_matrices(capsys: Captured) -> None:
    packaged = presets()["smollm2-135m"].packaged
    assert packaged is not None
    file, preset = show_model(packaged.require("smollm2-135m")), show_model("smollm2-135m")
    assert {key for key in preset if preset[key] != file[key]} == {"name", "repository"}
    assert file["bytes"]["default"] == preset["bytes"]["default"] < file["bytes"]["q8_0"]
    assert run(["models", "show", str(packaged.find())]) == 0
    assert "Matrices in the file: 210 in q4_1; 1 in q8_0." in capsys.readouterr().out


@pytest.mark.parametrize("name", ["gpt2", "llama-3.2-1b", "smollm2-135m"])
def test_the_bytes_are_those_that_devices_hold(name: str) -> None:
    shown = show_model(name, length=100, kv_format="float16")
    for format, shape in in_formats(PRESETS[name]).items():
        blocks = sum(resident_bytes(shape, block, 0) for block in blocks_of(shape))
        assert shown["bytes"][format] == blocks + pinned_bytes(shape)
        assert shown["bytes"][format] == sum(row["count"] * row["bytes"][format] for row in shown["blocks"])
    assert shown["kv_bytes_per_token"]["float16"] == kv_bytes_per_token(replace(PRESETS[name], kv_format="float16"))
    assert shown["kv_bytes_per_token"]["float32"] == 2 * shown["kv_bytes_per_token"]["float16"]


def test_a_dry_run_needs_of_its_devices_what_show_says() -> None:
    experiment = Experiment.load(ROOT / "experiments/gpt2-star4.yaml", ["traces=[]"])
    plan = dry_run(experiment)
    length = plan["prompt_tokens"] + plan["tokens"] - 1
    caches = sum(resident_bytes(experiment.shape, block, length) for block in blocks_of(experiment.shape))
    held = caches - sum(resident_bytes(experiment.shape, block, 0) for block in blocks_of(experiment.shape))
    needs = sum(device["need_bytes"] for device in plan["devices"].values())
    assert needs == show_model("gpt2")["bytes"]["float32"] + held


def test_a_longer_sequence_takes_more_of_everything_but_weights() -> None:
    short, long = show_model("llama-3.2-1b", length=64), show_model("llama-3.2-1b", length=65536)
    assert short["bytes"] == long["bytes"]
    assert long["flops_per_token"] > short["flops_per_token"]
    assert long["read_bytes_per_token"]["q8_0"] > short["read_bytes_per_token"]["q8_0"]
    needed = {row["board"]: row["needed"]["q4_0"] for row in long["boards"]}
    assert needed["raspberry-pi-4"] > {row["board"]: row["needed"]["q4_0"] for row in short["boards"]}["raspberry-pi-4"]


def test_a_board_less_does_not_hold_the_model() -> None:
    shape, memory = in_formats(PRESETS["llama-2-7b"])["float16"], 4 * 2**30
    count = boards_needed(shape, 512, memory)
    assert count is not None and count * memory > total_bytes(shape) > (count - 1) * memory
    assert boards_needed(shape, 512, pinned_bytes(shape) - 1) is None, "the source cannot hold embedding and LM head"


def test_every_board_of_the_catalogue_is_in_the_table() -> None:
    rows = show_model("qwen2.5-1.5b")["boards"]
    assert [row["board"] for row in rows] == list(boards())
    assert all(row["needed"]["q4_0"] <= row["needed"]["q8_0"] <= row["needed"]["float32"] for row in rows)


def test_a_folder_with_a_config_alone_is_shown_like_its_preset(tmp_path: Path) -> None:
    preset, folder = show_model("qwen3-0.6b"), show_model(write_config(tmp_path / "own", "qwen3-0.6b"))
    differing = {key for key in preset if preset[key] != folder[key]}
    assert differing == {"name", "repository"} and folder["weights"] is None


def test_a_config_alone_is_enough_to_plan_and_to_simulate(tmp_path: Path, capsys: Captured) -> None:
    folder = write_config(tmp_path / "own", "tiny-llama")
    common = ["replay", "experiments/gpt2-star4.yaml", "--set", f"model.path={folder}", "--set", "traces=[]"]
    ids = ["--set", "prompt.ids=[1, 2, 3]", "--tokens", "4", "--policy", "round-robin", "--json"]
    assert run([*common, *ids, "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "own"
    assert run([*common, *ids, "--backend", "sim", "--out", str(tmp_path / "runs")]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "done"


def test_a_format_whose_blocks_do_not_divide_the_rows_is_left_out(tmp_path: Path, capsys: Captured) -> None:
    config = dict(presets()["gpt2"].config) | {"n_embd": 80, "n_head": 4}
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    assert list(show_model(folder)["bytes"]) == ["float32", "bfloat16", "float16"]
    assert run(["models", "show", str(folder)]) == 0
    assert "q8_0" not in capsys.readouterr().out


def test_a_config_of_millions_of_layers_is_refused_at_once(tmp_path: Path) -> None:
    config = dict(presets()["tiny-llama"].config) | {"num_hidden_layers": 2**24}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="67108865 blocks, but at most 32768 can be placed"):
        show_model(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["llama-3.1"], ["'llama-3.1' is neither a preset nor a folder", "did you mean 'llama-3."]),
        (["gpt2", "--length", "0"], ["--length 0", "1024 positions"]),
        (["gpt2", "--length", "1025"], ["--length 1025", "1024 positions"]),
        (["{tmp}"], ["config.json"]),
        (["{tmp}/text"], ["text"]),
        (["{tmp}/loop"], ["loop"]),
    ],
    ids=str,
)
def test_what_is_no_model_is_one_sentence(
    arguments: list[str], words: list[str], tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "text").write_text("no model")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert run(["models", "show", *(argument.format(tmp=tmp_path) for argument in arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("Error: ") and captured.err.count("\n") == 1
    assert all(word in captured.err for word in words), captured.err


def test_python_gets_what_the_command_line_prints(capsys: Captured) -> None:
    assert run(["models", "show", "tiny-llama", "--length", "7", "--json"]) == 0
    shown: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert shown == json.loads(json.dumps(show_model("tiny-llama", length=7)))
    with pytest.raises(ConfigError):
        show_model("tiny-llama", length=1000)
