"""A run whose host others took is not faithful and names the devices that waited; one that is let alone is faithful."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from running import QUICKSTART, Ended, Place, rows

pytestmark = pytest.mark.quiet
SHORT = ("--tokens", "8", "--set", "traces=[]", "--policy", "static", "--backend", "mininet")
SPIN = "while True: pass"


@contextmanager
def cores_taken(per_core: int, prefix: Sequence[str] = ()) -> Iterator[None]:
    """Processes that want every core all the time."""
    command = [*prefix, sys.executable, "-c", SPIN]
    spinners = [subprocess.Popen(command) for _ in range(per_core * len(os.sched_getaffinity(0)))]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


def test_a_run_that_is_let_alone_is_faithful_and_says_how_idle_the_host_was(quickstart: Ended) -> None:
    found = rows(quickstart.folder, "host")
    assert quickstart.code == 0 and quickstart.summary["verdict"]["reasons"] == []
    assert [row["last_step"] for row in found] == [*range(7, 96, 8)]
    for row in found:
        assert row["cores"] == len(os.sched_getaffinity(0))
        shares = [row["own_share"], row["others_share"], row["idle_share"]]
        assert all(0 <= share <= 1 for share in shares) and 0.8 < sum(shares) < 1.1
        assert row["own_share"] > 0.02


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("per_core", "prefix"), [(1, ()), (2, ("nice", "-n", "19"))])
def test_a_run_whose_cores_others_took_ends_with_4_and_says_whether_devices_waited(
    place: Place, per_core: int, prefix: tuple[str, ...]
) -> None:
    with cores_taken(per_core, prefix):
        ended = place.replay(QUICKSTART, *SHORT)
    assert ended.code == 4, ended.err
    reasons = ended.summary["verdict"]["reasons"]
    [taken] = [reason for reason in reasons if reason.startswith("other processes took")]
    assert ("waited for a core meanwhile: device " in taken) != ("no device waited for a core for 1 %" in taken)
    assert taken in ended.sentence
