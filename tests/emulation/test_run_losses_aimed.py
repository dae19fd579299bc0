"""Six of the forty losses of tests/nightly: a worker dies in each phase but the set-up."""

from __future__ import annotations

import pytest
from losing import aim, assert_survived, assert_whole, lose, squeezed
from running import Place, rows


@pytest.mark.parametrize(
    ("number", "backend"), [(1, "local"), (2, "mininet"), (3, "local"), (4, "mininet"), (5, "mininet"), (6, "local")]
)
def test_a_worker_may_die_in_any_phase(place: Place, number: int, backend: str) -> None:
    kill = aim(number)
    hit, ended, took = lose(place, kill, backend)
    assert_survived(place, kill, hit, ended, took)


@pytest.mark.parametrize("on_oom", ["recompute", "fail"])
def test_a_kill_by_the_kernel_is_survived_where_the_experiment_asks_for_it(place: Place, on_oom: str) -> None:
    ended = squeezed(place, (4, "b", "1 MiB"), "44 MiB", "round-robin", on_oom)
    if on_oom == "fail":
        assert ended.code == 5 and "device b ran out of memory at token 4" in ended.sentence
        assert (ended.summary["status"], ended.summary["oom_kills"], len(ended.summary["tokens"])) == ("oom", 1, 4)
        return
    assert_whole(ended)
    assert (ended.summary["lost_devices"], ended.summary["oom_kills"]) == (["b"], 1)
    assert [row["cause"] for row in rows(ended.folder, "faults")] == ["oom"]
