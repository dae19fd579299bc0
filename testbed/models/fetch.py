"""Fetches a model from the Hugging Face hub: the files that we read, and no others.

Pickles (`pytorch_model.bin`), which can run code when they are read, and weights for other programs are left out.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from testbed.errors import ConfigError, EnvironmentLacks
from testbed.strict_yaml import shown

WEIGHTS = ("*.safetensors", "*.gguf")
BESIDE_WEIGHTS = ("*.json", "*.jinja", "tokenizer.model", "merges.txt")  # configs, tokenizers, chat templates
_REPOSITORY = re.compile(r"([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*")
_LONGEST = 96  # characters of a repository's name; the hub's own limit
_LONGEST_REASON = 200


@dataclass(frozen=True)
class Fetched:
    """A model that has been fetched."""

    repository: str
    commit: str
    folder: Path
    files: tuple[Path, ...]
    bytes: int


def fetch_model(repository: str, out: Path | None = None, only: Sequence[str] = ()) -> Fetched:
    """Download a repository's weights, configs and tokenizer into the folder `out` (default: the repository's name).

    `only` has patterns of names; files with weights that match none of them are left out. What is already there is
    not fetched again. Raises ConfigError for a wrong name, and EnvironmentLacks if the hub cannot be reached or gives
    no access.
    """
    if len(repository) > _LONGEST or not _REPOSITORY.fullmatch(repository):
        raise ConfigError(
            f"{shown(repository)} is not the name of a model repository: write OWNER/NAME, like "
            "HuggingFaceTB/SmolLM2-135M-Instruct"
        )
    folder = Path(repository.rpartition("/")[2]) if out is None else out
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file, but the model's files need a folder: give another with --out")
    commit = _download(repository, folder, [*(only or WEIGHTS), *BESIDE_WEIGHTS])
    files = tuple(sorted(path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts))
    if not any(fnmatch(path.name, pattern) for path in files for pattern in WEIGHTS):
        wanted = " or ".join(only or WEIGHTS)
        raise ConfigError(f"{repository} has no file {wanted}, so {folder} has no weights: name another repository")
    return Fetched(repository, commit, folder, files, sum(path.stat().st_size for path in files))


def _download(repository: str, folder: Path, patterns: Sequence[str]) -> str:
    """Download the files that match a pattern, and return the commit that they are of."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # read when the package is first imported
    try:
        import huggingface_hub as hub
        from huggingface_hub import constants, errors
    except ImportError as error:
        raise EnvironmentLacks(
            f"{repository} cannot be fetched, because the Python package huggingface_hub is not installed: run "
            "script/setup, or download the files by other means"
        ) from error
    where = f"{repository} cannot be fetched from {constants.ENDPOINT}"
    try:
        # Asked first: without the hub, `snapshot_download` takes whatever already lies in the folder for the model.
        commit = str(hub.model_info(repository).sha)
        hub.snapshot_download(repository, revision=commit, local_dir=folder, allow_patterns=list(patterns))
    except errors.GatedRepoError as error:
        raise EnvironmentLacks(
            f"{where}: its owner wants a licence to be accepted: do so on its page there, then log in by "
            "`hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ConfigError(
            f"{where}: there is no such repository, or it is private: then log in by `hf auth login`"
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise EnvironmentLacks(f"{where}: HF_HUB_OFFLINE forbids it; unset that variable") from error
    except Exception as error:  # what a network, a disk, and the hub's library can raise is in no list
        raise EnvironmentLacks(f"{where}: {_reason(error)}") from error
    return commit


def _reason(error: BaseException) -> str:
    """Return what went wrong as part of a sentence."""
    text = ascii(" ".join(str(error).split()))[1:-1] or type(error).__name__
    return text if len(text) <= _LONGEST_REASON else f"{text[: _LONGEST_REASON - 3]}..."
