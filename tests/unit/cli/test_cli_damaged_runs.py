"""Run folders that something happened to: one sentence each, and a listing that goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from testbed.cli import run
from testbed.runlog.folder import FORMAT, RunLog

FILES = {
    "summary.json": [b'{"verdict": 1.5}', b'{"verdict": {"ok": 1}}', b'{"tokens": 3}', b'{"seed": "x"}', b"[" * 20_000],
    "manifest.json": [
        b"",
        b"[]",
        b"\xff\xfe",
        b'{"experiment": {"tokens": "many"}}',
        b'{"seed": ' + b"1" * 5000 + b"}",
    ],
    "tokens.jsonl": [b"garbage\n", b"1\n", b'{"step": "a"}\n', b'{"step": 1e400}\n', b"x" * 2**20 + b"\n"],
    "tokens.parquet": [b"", b"PAR1xxxxPAR1", b"PAR1" + b"\x00" * 100 + b"\xff\xff\xff\x7fPAR1"],
    "events.jsonl": [b'{"t_s": "soon"}\n', b'{"value": 1' + b"0" * 400 + b"}\n", b'{"t_s": [1]}\n'],
    "links.jsonl": [b'{"t_s": 0, "device": "b", "direction": "sideways", "requested_bps": 1}\n'],
    "devices.jsonl": [b'{"t_s": 1e300, "device": "b", "alive": true}\n', b'{"t_s": 0, "alive": true}\n'],
}
CASES = [(name, content) for name, contents in FILES.items() for content in contents]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One run that went well."""
    log = RunLog.create(tmp_path, "quickstart", "static")
    log.row("placements", epoch=0, step=0, block="head(0,0)", device="a")
    log.finish({"status": "done", "tokens": [1]})
    return tmp_path


@pytest.mark.parametrize(("name", "content"), CASES, ids=[f"{name}-{content[:20]!r}" for name, content in CASES])
def test_a_damaged_folder_is_one_sentence_for_each_verb_and_ends_no_listing(
    folder: Path, name: str, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = folder / "bad"
    bad.mkdir()
    (bad / "manifest.json").write_text(f'{{"format": {FORMAT}}}')
    (bad / name).write_bytes(content)
    for arguments in (["report", str(bad)], ["report", str(folder)], ["plot", str(bad), "--out", str(folder / "out")]):
        assert run(arguments) == 2
        told = capsys.readouterr()
        assert told.err.startswith(f"Error: {bad}") and told.err.count("\n") == 1 and len(told.err) < 500, told.err
    assert not (folder / "out").exists()
    assert run(["runs", str(folder), "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert len(rows) == 2 and rows.pop("bad")["status"] in ("damaged", "unfinished")
    assert [row["status"] for row in rows.values()] == ["done"]


def test_a_damaged_run_is_listed_with_what_is_wrong(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = folder / "bad\x1b[31m"
    bad.mkdir()
    (bad / "manifest.json").write_text('{"policy": 3}')
    assert run(["runs", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "bad\\x1b[31m is damaged" in out and "policy is 3: expected str | null, got int." in out


def test_a_folder_that_may_not_be_looked_into_ends_no_listing(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "closed").mkdir()

    def look(self: Path) -> bool:
        if "closed" in self.parts:
            raise PermissionError(13, "Permission denied", str(self))
        return os.path.isfile(self)

    monkeypatch.setattr(Path, "is_file", look)  # as it is for a user who is not root
    assert run(["runs", str(folder), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 1


def test_what_is_no_file_where_a_table_should_be_is_not_waited_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = folder / "bad"
    bad.mkdir()
    (bad / "manifest.json").write_text(f'{{"format": {FORMAT}}}')
    os.mkfifo(bad / "tokens.jsonl")
    assert run(["report", str(bad)]) == 2
    assert run(["runs", str(folder)]) == 0
    assert "it is a pipe, not a file" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["{", "[]", '{"b": "x"}', '{"b": -1}', '{"b": 1.5}', "[" * 20_000])
def test_a_damaged_list_of_devices_is_one_sentence(
    folder: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "live.json").write_text(content)
    assert run(["exec", str(folder), "b", "--", "true"]) == 2
    assert capsys.readouterr().err.startswith(f"Error: {folder / 'live.json'}")


def test_names_that_mathematics_is_written_in_are_drawn_as_they_are(folder: Path) -> None:
    log = RunLog.create(folder, "x", "static")
    log.row("placements", epoch=0, step=0, block="head(0,0)", device=r"$\frac$")
    log.row("tokens", step=0, epoch=0, prefill=True, start_s=0.0, latency_s=1.0)
    log.row("tokens", step=1, epoch=0, prefill=False, start_s=1.0, latency_s=1.0, predicted_s=1.0)
    log.row("devices", t_s=0.0, device=r"$\frac$", alive=True, budget_bytes=9, ledger_bytes=5)
    log.write_manifest({"policy": r"$\frac{$ a_b", "backend": "sim"})
    log.finish({"status": "done", "tokens": [1, 2]})
    assert run(["plot", str(log.folder), "--out", str(folder / "figures")]) == 0
