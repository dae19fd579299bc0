"""`testbed models fetch`: what is asked of the hub, what is kept out, and what is said when nothing can be had."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import errors

from testbed.cli import run
from testbed.errors import ConfigError, EnvironmentLacks
from testbed.models.fetch import fetch_model

ROOT = Path(__file__).parents[3]
REPOSITORY = "HuggingFaceTB/SmolLM2-360M-Instruct"
COMMIT = "ab810cf68114990406fdf996510dd3d3c6adbdf5"
ON_THE_HUB = (
    "config.json", "generation_config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json",
    "tokenizer.model", "merges.txt", "chat_template.jinja", "README.md", "onnx/model.onnx", "run.py",
    "gguf/one.Q8_0.gguf", "gguf/one.Q4_0.gguf",
)  # fmt: skip


class Hub:
    """Stands in for the package huggingface_hub: one repository, or an error in place of an answer."""

    def __init__(self, error: BaseException | None = None, files: Sequence[str] = ON_THE_HUB) -> None:
        self.error, self.files, self.asked = error, files, dict[str, Any]()
        self.errors = errors
        self.constants = SimpleNamespace(ENDPOINT="https://hub.test")

    def model_info(self, repository: str) -> SimpleNamespace:
        if self.error is not None:
            raise self.error
        return SimpleNamespace(sha=COMMIT)

    def snapshot_download(self, repository: str, *, local_dir: Path, allow_patterns: list[str], **more: Any) -> str:
        self.asked = {"repository": repository, "allow_patterns": allow_patterns, **more}
        for name in self.files:
            if any(fnmatch(name, pattern) for pattern in allow_patterns):
                (local_dir / name).parent.mkdir(parents=True, exist_ok=True)
                (local_dir / name).write_text(name)
        (local_dir / ".cache" / "huggingface").mkdir(parents=True, exist_ok=True)
        (local_dir / ".cache" / "huggingface" / "one.metadata").write_text("the library's own")
        return str(local_dir)


Stand = Callable[..., Hub]


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Stand:
    """A function that puts a `Hub` in place of the package."""

    def made(*arguments: Any, **options: Any) -> Hub:
        hub = Hub(*arguments, **options)
        monkeypatch.setitem(sys.modules, "huggingface_hub", hub)  # type: ignore[arg-type]
        return hub

    return made


def http_error(kind: type[Exception]) -> Exception:
    """An error of the hub's own; its constructor wants a whole answer of a server."""
    return kind.__new__(kind, "401 Client Error")


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_only_weights_that_cannot_run_code_configs_and_tokenizers_are_fetched(stand: Stand, tmp_path: Path) -> None:
    hub = stand()
    fetched = fetch_model(REPOSITORY, tmp_path / "own")
    assert (fetched.repository, fetched.commit, fetched.folder) == (REPOSITORY, COMMIT, tmp_path / "own")
    assert hub.asked["repository"] == REPOSITORY and hub.asked["revision"] == COMMIT
    kept = {str(path.relative_to(tmp_path / "own")) for path in fetched.files}
    assert set(ON_THE_HUB) - kept == {"pytorch_model.bin", "README.md", "onnx/model.onnx", "run.py"}
    assert fetched.bytes == sum(map(len, kept))


def test_of_many_files_with_weights_one_can_be_chosen(stand: Stand, tmp_path: Path) -> None:
    stand()
    fetched = fetch_model(REPOSITORY, tmp_path, only=["*Q4_0.gguf"])
    weights = [path.name for path in fetched.files if path.suffix in (".gguf", ".safetensors")]
    assert weights == ["one.Q4_0.gguf"] and tmp_path / "config.json" in fetched.files


def test_the_folder_is_named_after_the_repository_and_json_says_what_came(
    stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand()
    monkeypatch.chdir(tmp_path)
    assert run(["models", "fetch", REPOSITORY, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["folder"], told["commit"]) == ("SmolLM2-360M-Instruct", COMMIT)
    assert "SmolLM2-360M-Instruct/model.safetensors" in told["files"]
    assert run(["models", "fetch", REPOSITORY]) == 0
    assert capsys.readouterr().out.startswith("SmolLM2-360M-Instruct: 9 files")


@pytest.mark.parametrize("name", ["", "two words", "../up", "a/b/c", "https://huggingface.co/a/b", "x" * 200, "-o/x"])
def test_what_is_no_name_of_a_repository_is_refused_before_the_hub_is_asked(stand: Stand, name: str) -> None:
    hub = stand()
    with pytest.raises(ConfigError, match="not the name of a model repository"):
        fetch_model(name)
    assert not hub.asked


def test_a_repository_without_weights_that_we_read_is_refused(stand: Stand, tmp_path: Path) -> None:
    stand(files=["config.json", "pytorch_model.bin"])
    with pytest.raises(ConfigError, match=r"has no file \*\.safetensors or \*\.gguf"):
        fetch_model(REPOSITORY, tmp_path / "own")


def test_a_file_in_place_of_the_folder_is_refused(stand: Stand, tmp_path: Path) -> None:
    stand()
    (tmp_path / "own").write_text("")
    with pytest.raises(ConfigError, match="is a file, but the model's files need a folder"):
        fetch_model(REPOSITORY, tmp_path / "own")


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (http_error(errors.GatedRepoError), EnvironmentLacks, "wants a licence to be accepted"),
        (http_error(errors.RepositoryNotFoundError), ConfigError, "no such repository, or it is private"),
        (errors.OfflineModeIsEnabled("no"), EnvironmentLacks, "HF_HUB_OFFLINE forbids it"),
        (ConnectionError("name resolution\n failed\x1b[31m"), EnvironmentLacks, r"name resolution failed\x1b[31m"),
        (TimeoutError(), EnvironmentLacks, "https://hub.test: TimeoutError"),
        (OSError(28, "No space left on device"), EnvironmentLacks, "No space left on device"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_what_the_hub_refuses_is_one_sentence(
    stand: Stand, tmp_path: Path, error: Exception, kind: type[Exception], words: str
) -> None:
    stand(error)
    (tmp_path / "model.safetensors").write_text("of another model")  # the library would take it for this one
    with pytest.raises(kind) as caught:
        fetch_model(REPOSITORY, tmp_path)
    assert words in str(caught.value) and REPOSITORY in str(caught.value)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


def test_without_the_hubs_package_one_sentence_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert run(["models", "fetch", REPOSITORY]) == 3
    told = capsys.readouterr().err
    assert "huggingface_hub is not installed" in told and told.count("\n") == 1


@pytest.mark.parametrize("variables", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_the_real_package_without_a_network_leads_to_one_sentence_and_exit_code_3(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "testbed", "models", "fetch", REPOSITORY, "--out", str(tmp_path / "own")],
        cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(f"Error: {REPOSITORY} cannot be fetched") and done.stderr.count("\n") == 1
    assert not (tmp_path / "own").exists()
