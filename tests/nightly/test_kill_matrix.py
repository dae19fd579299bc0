"""Every process of a run killed, ended or stopped at every moment: one sentence, the right code, nothing left, no wait.

`.venv/bin/python -m pytest tests/nightly/test_kill_matrix.py --numprocesses 4` takes about ten minutes.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from killing import assert_one_sentence, codes, hit
from running import Place

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP)
EVERYONE = ("worker", "forkserver", "replayer", "ballast", "inner", "outer")
MATRIX = [
    (backend, moment, which, number)
    for backend in ("mininet", "local")
    for moment in ("set-up", "decode", "migration", "teardown")
    for which in EVERYONE
    for number in SIGNALS
    if backend == "mininet" or which not in ("replayer", "ballast")
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("backend", "moment", "which", "number"), MATRIX, ids=lambda value: getattr(value, "name", value)
)
def test_a_run_ends_in_one_sentence_whatever_is_killed_or_stopped(
    backend: str, moment: str, which: str, number: signal.Signals, place: Place, tmp_path: Path
) -> None:
    ended, took = hit(place, tmp_path, which, number, moment, backend)
    print(f"{backend} {moment} {which} {number.name}: code {ended.code} after {took:.1f} s: {ended.err.strip()}")
    assert_one_sentence(ended, which)
    assert ended.code in codes(which, number, moment), (ended.code, ended.err)
