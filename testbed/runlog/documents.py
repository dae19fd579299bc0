"""manifest.json and summary.json of a run folder: the keys that programs read, their types, and the folder's format.

Both documents have more keys, which are for people.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec

from testbed.errors import ConfigError
from testbed.files import read_bytes
from testbed.strict_json import checked, read_object

MANIFEST = "manifest.json"
SUMMARY = "summary.json"
FORMAT = 1
"""The format of the run folders that this version writes, stored as `format` in the manifest.

It grows when an older reader would misunderstand a folder. Folders without the key are older than format 1.
"""

Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


class _Shared(msgspec.Struct):
    run: str | None = None
    policy: str | None = None
    backend: str | None = None
    provenance: str | None = None
    seed: int | None = None


class NewerFormat(ConfigError):
    """A newer version of the testbed wrote this run folder."""


class NotARun(ConfigError):
    """The folder's manifest.json is one of something else, such as a web page."""


class _ModelKeys(msgspec.Struct):
    preset: str | None = None
    path: str | None = None


class _ExperimentKeys(msgspec.Struct):
    name: str | None = None
    model: _ModelKeys | None = None
    policy: str | None = None
    seed: int | None = None
    tokens: Count | None = None


class Manifest(_Shared):
    """What is known of a run before it begins."""

    format: Count = 0
    experiment_name: str | None = None
    created: str | None = None
    experiment: _ExperimentKeys | None = None
    host: dict[str, str | int | float | bool | None] | None = None


class Verdict(msgspec.Struct):
    """Whether the emulation was faithful."""

    ok: bool
    reasons: list[str] = []
    notes: list[str] = []


class Summary(_Shared):
    """How a run ended."""

    status: str | None = None
    error: str | None = None
    exit_code: int | None = None
    verified: str | None = None
    tokens: list[int | None] | None = None
    mean_token_ms: float | None = None
    migrations: Count | None = None
    verdict: Verdict | None = None


@contextmanager
def refused_if_damaged(folder: Path) -> Iterator[None]:
    """Within it, tables that do not fit the manifest raise ConfigError."""
    try:
        yield
    except (LookupError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{folder} is damaged: its tables and its manifest do not fit together ({error!r})"
        ) from error


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run; raises ConfigError if it is missing, damaged or no run's, or if the format is newer."""
    manifest = read_json(folder / MANIFEST)
    known = checked(manifest, Manifest, str(folder / MANIFEST))
    _refuse_foreign(folder, known)
    _refuse_newer(folder, known.format)
    return manifest


def read_summary(folder: Path) -> dict[str, Any] | None:
    """The summary of a run, or None if the run has none because it did not end.

    Raises ConfigError if the summary is damaged, or if the folder's format is newer.
    """
    path = folder / SUMMARY
    if not path.exists():
        return None
    if (folder / MANIFEST).exists():
        _refuse_newer(folder, format_of(folder))
    document = read_json(path)
    checked(document, Summary, str(path))
    return document


def read_keys(folder: Path) -> tuple[Manifest, Summary | None]:
    """What `read_manifest` and `read_summary` return, but only the keys that programs read; it raises the same errors.

    It is quick for many folders: msgspec skips the other keys, such as traces. A manifest without any key of ours is
    none of a run, and raises NotARun.
    """
    try:
        manifest = msgspec.json.decode(read_bytes(folder / MANIFEST), type=Manifest)
        path = folder / SUMMARY
        summary = msgspec.json.decode(read_bytes(path), type=Summary) if path.exists() else None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        manifest = msgspec.convert(read_manifest(folder), Manifest)
        found = read_summary(folder)
        return manifest, None if found is None else msgspec.convert(found, Summary)
    _refuse_foreign(folder, manifest)
    _refuse_newer(folder, manifest.format)
    return manifest, summary


def is_foreign(folder: Path) -> bool:
    """Whether the folder's manifest.json is one of something else than a run; a damaged one may be a run's."""
    try:
        read_keys(folder)
    except NotARun:
        return True
    except (ConfigError, OSError):
        return False
    return False


def format_of(folder: Path) -> int:
    """The format of a run folder; 0 for a folder of an older version. Raises ConfigError for a damaged manifest."""
    path = folder / MANIFEST
    try:  # msgspec skips the other keys, so this is quick for large manifests too
        return msgspec.json.decode(read_bytes(path), type=_FormatKey).format
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return checked(read_json(path), Manifest, str(path)).format


class _FormatKey(msgspec.Struct):
    format: Count = 0


def _refuse_foreign(folder: Path, manifest: Manifest) -> None:
    if manifest == Manifest(created=manifest.created) and not (folder / SUMMARY).exists():
        raise NotARun(f"{folder} is no run folder: its manifest.json is that of something else")


def _refuse_newer(folder: Path, version: int) -> None:
    if version > FORMAT:
        raise NewerFormat(
            f"{folder} is a run folder of format {version}, and this version reads formats up to {FORMAT}: use the "
            "version of the testbed that made it, or a newer one"
        )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON document of a run; raises ConfigError if it is missing or damaged."""
    if not path.exists():
        raise ConfigError(f"{path} does not exist: {path.parent} is not a complete run folder")
    return read_object(path)
