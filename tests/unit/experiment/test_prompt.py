"""The prompt of an experiment in tokens: a text, a conversation or ids, with and without a tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from checkpoint_cases import CONFIG, write_checkpoint
from gguf_cases import GgufCase, llama_metadata
from refusals import refusal
from vocabularies import SPECIAL, byte_level, ids_of, metadata_of

from testbed.errors import ConfigError
from testbed.experiment.language import encoded, language_of
from testbed.experiment.prompt import assumed_of_prompt, language_for, prompt_ids
from testbed.experiment.schema import Experiment
from testbed.words.chat import Message

TRAINED = byte_level()
LARGER = CONFIG | {"n_positions": 128, "vocab_size": 402}
TEMPLATE = "{% for one in messages %}{{ one.role }}: {{ one.content }}" + SPECIAL + "{% endfor %}{{ bos_token }}so:"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint with a tokenizer and a chat template."""
    made = write_checkpoint(tmp_path / "own", LARGER)
    (made / "tokenizer.json").write_text(TRAINED.to_str())
    config = {
        "chat_template": TEMPLATE,
        "bos_token": {"content": "!"},
        "eos_token": SPECIAL,
        "model_max_length": 10**30,
    }
    (made / "tokenizer_config.json").write_text(json.dumps(config))
    return made


def experiment(folder: Path | None, prompt: Any, **changes: Any) -> Experiment:
    device = {"catalogue": "jetson-nano", "link": {"rate": "100 Mbit/s"}}
    mapping = {"model": {"preset": "tiny"} if folder is None else {"path": str(folder)}, "prompt": prompt, "tokens": 4}
    return Experiment.from_dict(mapping | {"topology": {"source": "a", "devices": {"a": device}}} | changes, "own.yaml")


def error_of(folder: Path | None, prompt: Any, **changes: Any) -> str:
    return refusal(lambda: prompt_ids(experiment(folder, prompt, **changes)))


def test_a_text_is_tokenised_by_the_models_tokenizer(folder: Path) -> None:
    assert prompt_ids(experiment(folder, "the heads go")) == ids_of(TRAINED, "the heads go")
    assert prompt_ids(experiment(folder, {"ids": [7, 3]})) == [7, 3]


def test_a_conversation_is_rendered_by_the_models_template_and_its_special_tokens_are_found(folder: Path) -> None:
    found = prompt_ids(experiment(folder, {"chat": "the heads?"}))
    assert found == ids_of(TRAINED, f"user: the heads?{SPECIAL}!so:")
    assert TRAINED.token_to_id(SPECIAL) in found
    several = [{"role": "system", "content": "go"}, {"role": "user", "content": ""}]
    assert prompt_ids(experiment(folder, {"chat": several})) == ids_of(
        TRAINED, f"system: go{SPECIAL}user: {SPECIAL}!so:"
    )


def test_a_conversation_counts_with_its_template_wherever_a_run_is_planned(folder: Path) -> None:
    loaded = experiment(folder, {"chat": "the heads?"})
    assert loaded.prompt_tokens is None
    assert loaded.most_prompt_tokens == len(prompt_ids(loaded)) == len(prompt_ids(loaded, computed=False))
    assert Experiment.from_dict(json.loads(json.dumps(loaded.to_dict()))) == loaded


def test_a_simulation_takes_the_tokens_of_one_before_until_a_file_changes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESTBED_PROMPTS", str(tmp_path / "prompts.json"))
    loaded = experiment(folder, {"chat": "the heads?"})
    found = prompt_ids(loaded, computed=False)
    assert found == prompt_ids(loaded)
    with monkeypatch.context() as unread:
        unread.delattr("testbed.experiment.prompt.language_of")
        assert prompt_ids(loaded, computed=False) == found
        assert assumed_of_prompt(loaded) == []
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert prompt_ids(loaded, computed=False) == ids_of(TRAINED, "the heads?")


def test_a_template_in_a_file_of_its_own_comes_first(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ eos_token }}go")
    assert prompt_ids(experiment(folder, {"chat": "x"})) == ids_of(TRAINED, f"{SPECIAL}go")
    (folder / "chat_template.jinja").unlink()
    named = [{"name": "tools", "template": "no"}, {"name": "default", "template": "go go"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert prompt_ids(experiment(folder, {"chat": "x"})) == ids_of(TRAINED, "go go")


@pytest.mark.parametrize(
    "prompt", ["ab\nc", {"chat": "ab\nc"}, {"chat": [{"role": "x", "content": "ab"}, {"role": "user", "content": "c"}]}]
)
def test_random_weights_take_a_token_for_each_byte_of_words(prompt: Any) -> None:
    loaded = experiment(None, prompt)
    assert prompt_ids(loaded) == list(b"ab\nc") and loaded.prompt_tokens == loaded.most_prompt_tokens == 4
    assert language_for(loaded) is None and assumed_of_prompt(loaded) == []


@pytest.mark.parametrize("prompt", ["ab\nc", {"chat": "ab\nc"}])
def test_without_a_tokenizer_words_can_be_counted_but_not_computed(folder: Path, prompt: Any) -> None:
    (folder / "tokenizer.json").unlink()
    loaded = experiment(folder, prompt)
    assert len(prompt_ids(loaded, computed=False)) == 4
    assert (
        "tokenizer.json is missing, so the prompt is taken to have a token for each of its 4 bytes"
        in (assumed_of_prompt(loaded)[0])
    )
    assert "tokenizer.json is missing: a text prompt needs the checkpoint's tokenizer" in error_of(folder, prompt)


def test_a_model_without_a_template_takes_no_conversation(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()
    assert error_of(folder, {"chat": "x"}) == (
        f"{folder}: the model has no chat template, so it takes no prompt.chat; give prompt.text"
    )


def test_a_gguf_file_has_tokenizer_template_and_ends_of_its_own(tmp_path: Path) -> None:
    metadata = llama_metadata() | metadata_of(TRAINED, "gpt-2") | {"tokenizer.chat_template": TEMPLATE}
    file = GgufCase(metadata | {"tokenizer.ggml.bos_token_id": 0}, {}).write(tmp_path / "own.gguf")
    language = language_of(file)
    assert language.ends == {TRAINED.token_to_id(SPECIAL)}
    assert encoded(language, "the heads", file) == tuple(ids_of(TRAINED, "the heads"))
    answer = tuple(ids_of(TRAINED, f"user: the heads?{SPECIAL}!so:"))
    assert encoded(language, (Message("user", "the heads?"),), file) == answer


def test_a_gguf_file_may_have_no_tokenizer(tmp_path: Path) -> None:
    file = GgufCase(llama_metadata(), {}).write(tmp_path / "own.gguf")
    with pytest.raises(ConfigError, match="own.gguf has no tokenizer: a text prompt needs the checkpoint's tokenizer"):
        encoded(language_of(file), "the heads", file)


def test_a_changed_file_is_read_again(folder: Path) -> None:
    before = prompt_ids(experiment(folder, {"chat": "x"}))
    (folder / "chat_template.jinja").write_text("go home")
    assert prompt_ids(experiment(folder, {"chat": "x"})) == ids_of(TRAINED, "go home") != before


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("tokenizer_config.json", {"chat_template": "{% include 'os' %}"}, "fails: TypeError: no loader"),
        ("chat_template.jinja", "{{ 'a' * 10**10 }}", "needs more than 256 MiB of memory"),
        ("tokenizer_config.json", {"chat_template": 3}, "chat_template is 3, but it must be a template"),
        ("tokenizer_config.json", {"chat_template": [{"name": "x", "template": "y"}]}, "must have one named default"),
        ("tokenizer_config.json", {"bos_token": 3}, "bos_token is 3, but it must be a token's text"),
        ("tokenizer_config.json", [], "the file must be a mapping"),
        ("generation_config.json", {"eos_token_id": "x"}, "eos_token_id is 'x', but it must be a token's id"),
        ("generation_config.json", {"eos_token_id": [1, -2]}, "eos_token_id is [1, -2], but"),
        ("tokenizer.json", {}, "this is not a tokenizer that can be used"),
    ],
)  # fmt: skip
def test_a_file_that_is_wrong_is_named(folder: Path, file: str, content: Any, told: str) -> None:
    (folder / file).write_text(content if isinstance(content, str) else json.dumps(content))
    message = error_of(folder, {"chat": "x"})
    assert message.startswith(str(folder / file)) and told in message


def test_a_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").write_text(byte_level(words=403).to_str())
    assert error_of(folder, "go") == (
        f"{folder / 'tokenizer.json'}: the tokenizer has 405 tokens, but own has 402, so it is not this model's"
    )


@pytest.mark.parametrize(
    ("generation", "config", "ends"),
    [({"eos_token_id": [5, 6]}, 7, {5, 6}), ({"eos_token_id": 5}, 7, {5}), ({}, 7, {7}), (None, [7, 8], {7, 8}),
     (None, None, set())],
)  # fmt: skip
def test_a_text_ends_where_generation_config_or_else_config_says(
    folder: Path, generation: Any, config: Any, ends: set[int]
) -> None:
    (folder / "config.json").write_text(json.dumps(LARGER | {"eos_token_id": config}))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    language = language_for(experiment(folder, {"ids": [1]}))
    assert language is not None and language.ends == ends


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ({"chat": []}, "prompt.chat is [], but tuple should have at least 1 item"),
        ({"chat": 3}, "prompt.chat is 3"),
        ({"chat": [{"role": "user"}]}, "prompt.chat.0.content"),
        (
            {"chat": [{"role": "user", "content": "x", "contents": "y"}]},
            "'contents' is not a key of prompt.chat; did you",
        ),
        ({"chat": [{"role": "", "content": "x"}]}, "prompt.chat.0.role is ''"),
        ({"chat": "x", "text": "y"}, "prompt: give either text, file, chat or ids, one of the four"),
        ({"talk": "x"}, "'talk' is not a key of prompt"),
    ],
)
def test_a_prompt_that_is_none_is_refused_by_key(prompt: Any, told: str) -> None:
    assert told in error_of(None, prompt)


def test_an_override_takes_the_place_of_another_kind_of_prompt(tmp_path: Path) -> None:
    raw = experiment(None, "text").to_dict()
    file = tmp_path / "own.yaml"
    file.write_text(json.dumps(raw))
    loaded = Experiment.load(file, ["prompt.chat=Why?"])
    assert loaded.to_dict()["prompt"] == {"chat": [{"role": "user", "content": "Why?"}]}


@pytest.mark.parametrize(
    ("sampling", "told"),
    [
        ({"temperature": 0}, "sampling.temperature is 0, but it should be greater than or equal to 0.01"),
        ({"top_p": 0}, "sampling.top_p is 0, but it should be greater than 0"),
        ({"top_k": 0}, "sampling.top_k is 0, but it should be greater than or equal to 1"),
        ({"top_q": 1}, "'top_q' is not a key of sampling; did you mean"),
    ],
)
def test_a_setting_of_sampling_that_cannot_be_is_refused(sampling: dict[str, Any], told: str) -> None:
    assert told in error_of(None, "x", sampling=sampling)


def test_sampling_needs_all_logits_on_one_device() -> None:
    message = error_of(None, "x", sampling={"top_k": 5}, partition={"vocab_shards": 4})
    assert message.startswith("own.yaml: sampling needs all logits on one device, but partition.vocab_shards is 4")
    assert experiment(None, "x", sampling={"top_k": 5}).sampling is not None
