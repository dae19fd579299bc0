"""Which runs can be gone on with, and what is said of the others."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import make_run

from testbed.errors import ConfigError
from testbed.runlog.folder import RunLog
from testbed.running import resume
from testbed.version import __version__


@pytest.fixture
def died(tmp_path: Path) -> Path:
    """The folder of a local run whose controller has died."""
    log = RunLog.create(tmp_path, "quickstart", "static")
    known = {"testbed": __version__, "backend": "local", "experiment": {}, "options": {}}
    log.write_manifest(log.read_manifest() | known)
    log.close()
    return log.folder


def test_a_run_is_resumed_by_one_at_a_time(died: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def meanwhile(manifest: dict[str, Any], *rest: Any) -> dict[str, Any]:
        with pytest.raises(ConfigError, match="is going on: somebody else is resuming it"):
            resume.resume_once(died)
        return manifest["options"]  # type: ignore[no-any-return]

    monkeypatch.setattr(resume, "run_apart", meanwhile)
    assert resume.resume_once(died)["resumed"] == 1


def test_what_happens_while_a_run_goes_on_is_not_taken_for_another_who_resumes_it(
    died: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise BlockingIOError(errno.EAGAIN, "no more processes")

    monkeypatch.setattr(resume, "run_apart", fail)
    with pytest.raises(BlockingIOError, match="no more processes"):
        resume.resume_once(died)


def test_what_cannot_be_resumed_is_refused_with_its_reason(died: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has ended"):
        resume.resume_once(make_run(tmp_path / "runs", "static", tokens=4))
    manifest = RunLog(died).read_manifest()
    for change, reason in (
        ({"testbed": "0.0.1"}, "was begun by version 0.0.1"),
        ({"backend": "sim"}, "is a simulation"),
    ):
        RunLog(died).write_manifest(manifest | change)
        with pytest.raises(ConfigError, match=reason):
            resume.resume_once(died)
    del manifest["options"]
    RunLog(died).write_manifest(manifest)
    with pytest.raises(ConfigError, match="died before its experiment was written down"):
        resume.resume_once(died)
