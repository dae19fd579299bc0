"""Six of the forty losses of tests/nightly: a worker dies in each phase but the set-up."""

from __future__ import annotations

import pytest
from losing import POLICY, aim, assert_survived, assert_whole, lose, short_quickstart, squeezed
from running import Place, events, rows


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


def test_a_device_that_the_kernel_killed_returns_when_its_memory_does(place: Place) -> None:
    place.base.mkdir(exist_ok=True)
    trace = "4,device/b,memory,1 MiB\n8,device/b,memory,44 MiB\n9,device/b,restart,1\n"
    (place.base / "trace.csv").write_text("time,target,quantity,value\n" + trace)
    experiment = short_quickstart(
        place.base, "44 MiB", "44 MiB", tokens=14, policy=POLICY, policy_options={"phase": "none"},
        traces=["trace.csv"], grace=0, recovery={"on_oom": "recompute"},
    )  # fmt: skip
    ended = place.done(experiment, "--backend", "mininet")
    assert ended.summary["lost_devices"] == ["b"]
    assert [(row["device"], row["step"]) for row in events(ended.folder, "device_returned")] == [("b", 12)]
    last = max(row["epoch"] for row in rows(ended.folder, "placements"))
    assert "b" in {row["device"] for row in rows(ended.folder, "placements") if row["epoch"] == last}
