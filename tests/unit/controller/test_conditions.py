"""What is in force when: the topology overlaid by the traces; less memory is announced before it is enforced."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.controller.conditions import Announcement, Conditions, observe
from testbed.controller.fleet import LinkTarget
from testbed.experiment.schema import Experiment
from testbed.traces import Change, Trace, TraceSet

MIB = 2**20
LINK = {"up": "20 Mbit/s", "down": "50 Mbit/s", "delay": "1 ms"}
DEVICES = {
    "a": {"streaming": "3 GB/s", "compute": "12 GFLOP/s", "memory": "256 MiB", "storage": "90 MB/s", "link": LINK},
    "b": {"streaming": "2 GB/s", "compute": "8 GFLOP/s", "memory": "100 MiB", "storage": "90 MB/s", "link": LINK},
}
BASE: dict[str, Any] = {
    "model": {"preset": "tiny"}, "prompt": "hi", "tokens": 64, "topology": {"source": "a", "devices": DEVICES},
}  # fmt: skip


def memory(*rows: tuple[float, float], device: str = "b") -> list[Change]:
    return [Change(time, f"device/{device}", "memory", mib * MIB) for time, mib in rows]


def conditions(
    *changes: Change,
    grace: int = 2,
    ramp: float | None = None,
    end: Any = "hold",
    period: float | None = None,
    replayed: Any = (),
) -> Conditions:
    traces = TraceSet((Trace(tuple(changes), end, period),)) if changes else TraceSet()
    experiment = Experiment.from_dict(BASE | {"grace": grace, "ramp": ramp}).model_copy(update={"traces": traces})
    made = Conditions(experiment, replayed)
    made.begin()
    return made


def budgets(now: Conditions, device: str = "b") -> tuple[float, float]:
    """(what a policy sees, what is enforced), MiB."""
    assert now.target().devices[device].memory_bytes == now.enforced_memory(device)
    return now.visible_memory(device) / MIB, now.enforced_memory(device) / MIB


def test_without_traces_the_topology_holds() -> None:
    target = conditions().target()
    assert target.links["b"] == LinkTarget(20e6, 50e6, 1e-3, 1e-3, 0.0)
    assert (target.devices["a"].streaming_Bps, target.devices["a"].memory_bytes) == (3e9, 256 * MIB)


def test_a_value_at_time_zero_holds_from_the_start_memory_included() -> None:
    now = conditions(*memory((0, 60)), Change(0, "link/b", "up", 1e6))
    assert budgets(now) == (60, 60)
    assert now.target().links["b"].up_bps == 1e6
    assert now.target().links["b"].down_bps == 50e6


def test_rates_delays_and_compute_change_at_once() -> None:
    now = conditions(
        Change(8, "link/b", "up", 0.0), Change(8, "link/b", "down_delay", 0.02), Change(8, "link/b", "loss", 0.1),
        Change(8, "device/a", "streaming", 1e9), Change(8, "device/a", "compute", 1e10),
    )  # fmt: skip
    assert now.next_change_s() == 8
    changes, announced = now.advance(8, 1)
    assert len(changes) == 5 and not announced
    assert now.target().links["b"] == LinkTarget(0.0, 50e6, 1e-3, 0.02, up_loss=0.1, down_loss=0.1)
    assert (now.target().devices["a"].streaming_Bps, now.target().devices["a"].compute_flops) == (1e9, 1e10)
    assert now.next_change_s() is None


def test_a_device_is_paused_while_the_trace_says_so() -> None:
    now = conditions(Change(2, "device/b", "pause", 1.0), Change(5, "device/b", "pause", 0.0))
    assert not now.target().devices["b"].paused
    now.advance(2, 1)
    assert now.target().devices["b"].paused and not now.target().devices["a"].paused
    now.advance(5, 1)
    assert not now.target().devices["b"].paused


def test_a_decrease_is_announced_then_enforced_at_the_next_commit() -> None:
    now = conditions(*memory((8, 60)))
    changes, announced = now.advance(8, 1)
    assert announced == [Announcement("b", 60 * MIB, 1)]
    assert [change.quantity for change in changes] == ["memory"]
    assert budgets(now) == (60, 100)
    assert now.enforce(1, committed=True) == announced
    assert budgets(now) == (60, 60)
    assert now.enforce(2, committed=True) == []


@pytest.mark.parametrize("grace", [1, 2, 3])
def test_without_a_commit_it_is_enforced_grace_intervals_after_its_announcement(grace: int) -> None:
    now = conditions(*memory((8, 60)), grace=grace)
    now.advance(8, 1)
    for boundary in range(1, 1 + grace):
        assert now.enforce(boundary, committed=False) == []
        assert budgets(now) == (60, 100)
    assert [news.device for news in now.enforce(1 + grace, committed=False)] == ["b"]
    assert budgets(now) == (60, 60)


def test_with_no_grace_a_decrease_is_instant_and_nobody_is_told_before() -> None:
    now = conditions(*memory((8, 60)), grace=0)
    changes, announced = now.advance(8, 1)
    assert len(changes) == 1 and not announced
    assert budgets(now) == (60, 60)
    assert now.enforce(1, committed=True) == []


def test_an_increase_holds_at_once() -> None:
    now = conditions(*memory((8, 150)))
    assert now.advance(8, 1)[1] == []
    assert budgets(now) == (150, 150)


def test_an_increase_takes_an_announcement_back() -> None:
    now = conditions(*memory((8, 60), (16, 120)))
    now.advance(8, 1)
    assert now.advance(16, 2)[1] == []
    assert budgets(now) == (120, 120)
    assert now.enforce(9, committed=True) == []


def test_a_further_decrease_replaces_the_amount_but_keeps_the_first_ones_day() -> None:
    now = conditions(*memory((8, 60), (16, 40)))
    now.advance(8, 1)
    assert now.advance(16, 2)[1] == [Announcement("b", 40 * MIB, 1)]
    assert budgets(now) == (40, 100)
    assert now.enforce(2, committed=True) == [Announcement("b", 40 * MIB, 1)]
    assert budgets(now) == (40, 40)


def test_a_part_given_back_is_still_a_decrease_to_be_announced() -> None:
    now = conditions(*memory((8, 60), (16, 80)))
    now.advance(8, 1)
    assert now.advance(16, 2)[1] == [Announcement("b", 80 * MIB, 1)]
    assert budgets(now) == (80, 100)


def test_devices_are_squeezed_independently() -> None:
    now = conditions(*memory((8, 60)), *memory((16, 200), device="a"))
    now.advance(8, 1)
    now.advance(16, 2)
    assert [news.device for news in now.enforce(3, committed=False)] == ["b"]
    assert budgets(now, "a") == (200, 256)
    assert [news.device for news in now.enforce(4, committed=False)] == ["a"]


def test_a_trace_that_stops_gives_everything_back_to_the_topology() -> None:
    now = conditions(*memory((0, 60)), Change(0, "link/b", "up", 1e6), end="stop", period=16)
    assert now.next_change_s() == 16
    changes, announced = now.advance(16, 2)
    assert {(change.quantity, change.value) for change in changes} == {("memory", None), ("up", None)}
    assert not announced
    assert budgets(now) == (100, 100)
    assert now.target().links["b"].up_bps == 20e6


def test_a_trace_that_stops_above_the_topologys_memory_announces_the_decrease() -> None:
    now = conditions(*memory((0, 160)), end="stop", period=16)
    assert now.advance(16, 2)[1] == [Announcement("b", 100 * MIB, 2)]
    assert budgets(now) == (100, 160)


def test_a_looping_trace_comes_back() -> None:
    now = conditions(*memory((0, 90), (8, 60)), end="loop", period=16)
    seen = []
    for boundary in range(1, 6):
        now.advance(8.0 * boundary, boundary)
        now.enforce(boundary, committed=True)
        seen.append(budgets(now))
    assert seen == [(60, 60), (90, 90), (60, 60), (90, 90), (60, 60)]


def test_a_policy_sees_what_is_announced_and_the_links_as_they_are() -> None:
    now = conditions(*memory((8, 60)), Change(8, "link/b", "up", 1e6))
    now.advance(8, 1)
    seen = observe(Experiment.from_dict(BASE), now, prompt_tokens=2, tokens_done=8)
    assert [(view.name, view.available_bytes) for view in seen.devices] == [("a", 256 * MIB), ("b", 60 * MIB)]
    assert seen.links["b"].up_bps == 1e6
    assert (seen.tokens_done, seen.tokens_max, seen.prompt_tokens, seen.source) == (8, 64, 2, "a")


steps = st.lists(st.tuples(st.integers(10, 200), st.booleans()), min_size=1, max_size=20)


@given(steps=steps, grace=st.integers(0, 3))
def test_enforced_memory_only_falls_to_what_had_been_announced_and_in_the_end_follows_the_trace(
    steps: list[tuple[int, bool]], grace: int
) -> None:
    rows = [(8.0 * (index + 1), float(mib)) for index, (mib, _) in enumerate(steps)]
    now, before = conditions(*memory(*rows), grace=grace), 100.0
    for index, (mib, committed) in enumerate(steps):
        boundary = index + 1
        now.advance(8.0 * boundary, boundary)
        visible, enforced = budgets(now)
        assert visible == mib, "a policy always sees what the trace says"
        assert enforced == (mib if mib >= before or grace == 0 else before)
        now.enforce(boundary, committed)
        visible, enforced = budgets(now)
        assert visible == mib and enforced in (mib, before if mib < before else mib)
        assert not committed or enforced == mib
        before = enforced
    now.enforce(len(steps) + grace, committed=False)
    assert budgets(now) == (mib, mib)


def test_what_somebody_else_replays_is_known_at_its_time_but_never_waited_for() -> None:
    now = conditions(
        Change(1, "link/b", "up", 1e6), Change(2, "link/b", "up_delay", 0.02), Change(3, "link/b", "up", 2e6),
        end="loop", period=4.0, replayed={("link/b", "up")},
    )  # fmt: skip
    assert now.next_change_s() == 2
    now.advance(1.5, 0)
    assert now.target().links["b"].up_bps == 1e6
    now.advance(3.5, 0)
    assert now.target().links["b"].up_bps == 2e6
    assert now.next_change_s() == 4, "the delay goes back to the topology's with the lap"
    assert now.advance(4.0, 0)[0] == [
        Change(4, "link/b", "up", None), Change(4, "link/b", "up_delay", None),
    ]  # fmt: skip


def test_with_a_ramp_memory_goes_as_fast_as_the_other_process_grows_and_no_further_than_it_wants() -> None:
    now = conditions(*memory((8, 60)), grace=0, ramp=2.0 * MIB)
    now.advance(8, 1)
    assert budgets(now) == (100, 100)
    for until, left in ((16, 84), (24, 68), (32, 60), (40, 60)):
        changes, announced = now.advance(until, 1)
        assert budgets(now) == (left, left) and not announced
        assert [change.value for change in changes] == ([left * MIB] if until < 40 else [])


def test_with_a_ramp_the_next_change_is_the_next_step_and_one_that_is_not_due_takes_nothing() -> None:
    now = conditions(*memory((8, 60), (30, 80)), grace=0, ramp=4.0 * MIB)
    assert now.next_change_s() == 8
    now.advance(8, 1)
    assert now.next_change_s() == 8.25
    assert now.advance(8.2, 1) == ([], [])
    now.advance(8.25, 1)
    assert budgets(now) == (99, 99) and now.next_change_s() == 8.5
    now.advance(20, 1)
    assert budgets(now) == (60, 60) and now.next_change_s() == 30
    now.advance(30, 1)
    assert budgets(now) == (80, 80) and now.next_change_s() is None


def test_a_row_during_a_ramp_goes_on_from_what_is_left() -> None:
    now = conditions(*memory((8, 60), (12, 90), (16, 50)), grace=0, ramp=1.0 * MIB)
    now.advance(12, 1)
    assert budgets(now) == (96, 96)
    now.advance(18, 1)
    assert budgets(now) == (90, 90)


def test_with_a_ramp_and_grace_each_step_is_announced() -> None:
    now = conditions(*memory((8, 60)), ramp=1.0 * MIB)
    now.advance(8, 1)
    assert now.advance(16, 2)[1] == [Announcement("b", 92 * MIB, 2)]
    assert budgets(now) == (92, 100)
