"""Runs of a model that writes text: where the text ends, how tokens are drawn, and what is shown of it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest
from running import ROOT, UNJUDGED, Place, save_checkpoint, write_experiment
from terminals import screen
from vocabularies import CORPUS, byte_level, ids_of

TRAINED = byte_level(words=398)
TEMPLATE = "{% for one in messages %}{{ one.role }}: {{ one.content }}\n{% endfor %}answer:"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random checkpoint with a tokenizer and a chat template; no token ends its text."""
    folder = tmp_path_factory.mktemp("models") / "talker"
    save_checkpoint(folder, layers=2, width=64, heads=2, positions=128, vocab=400)
    (folder / "tokenizer.json").write_text(TRAINED.to_str())
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    end_with(folder, None)
    return folder


def end_with(model: Path, token: int | None) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"eos_token_id": token}))
    (model / "generation_config.json").unlink(missing_ok=True)


def test_a_run_ends_where_the_text_does_unless_that_is_ignored(place: Place, model: Path, tmp_path: Path) -> None:
    end_with(model, None)
    own = write_experiment(tmp_path, model={"path": str(model)}, prompt={"chat": CORPUS[0]}, tokens=24)
    whole = place.done(own, "--backend", "local").summary
    assert len(whole["tokens"]) == 24 and whole["text"] == TRAINED.decode(whole["tokens"])
    last = whole["tokens"][10]
    end = whole["tokens"].index(last) + 1  # in the middle of an interval, or at its end
    end_with(model, last)
    short = place.done(own, "--backend", "mininet").summary
    assert short["tokens"] == whole["tokens"][:end]
    assert short["text"] == TRAINED.decode(short["tokens"])
    assert short["tokens_per_s"] == pytest.approx(end / short["total_s"])
    again = place.done(own, "--backend", "local", "--set", "ignore_eos=true").summary
    assert again["tokens"] == whole["tokens"]


def test_draws_depend_on_the_seed_and_not_on_who_computes_where(place: Place, model: Path, tmp_path: Path) -> None:
    end_with(model, None)
    own = write_experiment(
        tmp_path, model={"path": str(model)}, prompt="the heads", tokens=12, sampling={"temperature": 2, "top_p": 0.9}
    )
    asked = [("local", "round-robin", 1), ("mininet", "greedy", 1), ("mininet", "round-robin", 2)]
    runs = [
        place.done(own, "--backend", backend, "--policy", policy, "--seed", str(seed)).summary["tokens"]
        for backend, policy, seed in asked
    ]
    assert runs[0] == runs[1] != runs[2]


def test_a_terminal_shows_the_text_and_a_pipe_gets_it_at_the_end(place: Place, model: Path, tmp_path: Path) -> None:
    end_with(model, None)
    own = write_experiment(tmp_path, model={"path": str(model)}, prompt={"ids": ids_of(TRAINED, "the heads")})
    arguments = ("replay", own, "--out", place.out, "--backend", "local", *UNJUDGED)
    text = place.testbed(*arguments, "--json").summary["text"]
    words = text.split()
    assert words
    piped = place.testbed(*arguments)
    assert piped.code == 0 and all(word in piped.out for word in words if word.isprintable())
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        place.command(*arguments), cwd=ROOT, env=place.env | {"TERM": "xterm", "COLUMNS": "100"}, stdin=theirs,
        stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    written = b""
    try:
        while piece := os.read(ours, 4096):
            written += piece
    except OSError:  # the other side has been closed
        pass
    assert process.wait(20) == 0
    os.close(ours)
    shown = " ".join(screen(written.decode()))
    assert all(word in shown for word in words if word.isprintable() and len(word) < 80)
    assert written.count(b"round-robin") > 2  # the bar below, and the table
