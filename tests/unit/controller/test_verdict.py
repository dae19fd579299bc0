"""The fidelity verdict: what makes an emulation unfaithful, and what is only worth a note."""

from __future__ import annotations

from typing import Any

import pytest

from testbed.controller.startup_calibration import Calibrated, DelayResult
from testbed.controller.verdict import Asked, verdict

Rows = list[dict[str, Any]]
UNMEASURED = Calibrated()


def judged(
    facts: dict[str, Any] | None = None, calibrated: Calibrated = UNMEASURED, asked: Asked | None = None,
    paced: bool = True, **tables: Rows,
) -> dict[str, Any]:  # fmt: skip
    kept: dict[str, Rows] = {"links": [], "rates": [], "spans": [], "tokens": [], "waits": [], "host": []}
    facts = facts or {"memory": "enforced by cgroup v1"}
    return verdict(kept | tables, facts, calibrated, asked or Asked(paced=paced))


def link(applied: float, readback: float | None, device: str = "b") -> dict[str, Any]:
    return {
        "device": device, "direction": "up", "requested_bps": applied, "applied_bps": applied, "readback_bps": readback,
    }  # fmt: skip


def rate(share: float, how: str = "probe", requested: float = 1e8, size: int = 2_000_000) -> dict[str, Any]:
    achieved = share * 0.956 * requested
    return {
        "device": "a", "peer": "b", "requested_bps": requested, "achieved_bps": achieved, "bytes": size, "how": how,
    }  # fmt: skip


def span(due_s: float, overrun: bool, device: str = "b", step: int = 1, took_s: float | None = None) -> dict[str, Any]:
    took = due_s if took_s is None else took_s
    return {"kind": "block", "device": device, "due_s": due_s, "overrun": overrun, "step": step, "start_s": 0.0,
            "end_s": took}  # fmt: skip


def token(latency_s: float, software_s: float, prefill: bool = False) -> dict[str, Any]:
    return {"latency_s": latency_s, "software_s": software_s, "prefill": prefill}


def test_a_run_in_which_all_is_as_asked_is_faithful() -> None:
    found = judged(
        links=[link(1e8, 1e8), link(8, 8), link(1e8, 1e8 * 1.0005)],
        rates=[rate(1.0), rate(0.9), rate(1.02, "migration")],
        spans=[span(2e-3, False)] * 100,
        tokens=[token(0.1, 0.001)] * 10,
    )
    assert found == {"ok": True, "reasons": [], "notes": []}


def test_a_link_that_the_kernel_has_at_another_rate_is_named() -> None:
    found = judged(links=[link(1e8, 1e8, "a"), link(1e8, 1.01e8)])
    assert not found["ok"]
    assert found["reasons"] == ["link b up: asked for 100 Mbit/s, the kernel says 101 Mbit/s"]


def test_a_link_that_no_kernel_shapes_is_not_held_against_the_run() -> None:
    assert judged(links=[link(1e8, None)])["ok"]


@pytest.mark.parametrize("how", ["probe", "migration"])
def test_a_transfer_faster_than_its_link_was_not_shaped(how: str) -> None:
    assert judged(rates=[rate(1.02, how)])["ok"]
    [reason] = judged(rates=[rate(1.10, how)])["reasons"]
    assert "path a to b" in reason and "it was not shaped" in reason and "100 Mbit/s" in reason


def test_what_a_slow_link_passes_at_once_does_not_make_it_unshaped() -> None:
    assert judged(rates=[rate(1.06, size=32_768, requested=2e6)])["ok"]
    assert not judged(rates=[rate(1.4, size=32_768, requested=2e6)])["ok"]


def test_a_slow_probe_is_a_reason_and_a_slow_migration_is_not() -> None:
    assert judged(rates=[rate(0.80)])["ok"]
    [reason] = judged(rates=[rate(0.5)])["reasons"]
    assert "path a to b: a probe reached only" in reason
    assert judged(rates=[rate(0.5, "migration")])["ok"]


@pytest.mark.parametrize("lossy", "ab")
def test_a_probe_over_a_link_that_is_to_lose_packets_may_be_slow(lossy: str) -> None:
    assert judged(rates=[rate(0.3)], asked=Asked(lossy=(lossy,)))["ok"]
    assert not judged(rates=[rate(1.1)], asked=Asked(lossy=(lossy,)))["ok"]


def test_a_transfer_too_short_to_be_judged_is_not() -> None:
    assert judged(rates=[rate(3.0, size=100_000), rate(0.1, size=100_000), rate(0.0, requested=0.0)])["ok"]


def test_operations_that_took_over_two_per_cent_longer_are_a_reason_that_names_the_device() -> None:
    fine = [span(2e-3, index < 50, took_s=2.07e-3 if index < 50 else None) for index in range(100)]  # 1.75 %
    assert judged(spans=fine)["ok"]
    [reason] = judged(spans=[*fine, span(2e-3, True, took_s=4e-3), span(2e-3, False, "a")])["reasons"]
    assert "operations took longer" in reason and "device b 3 % (51 of 101 late)" in reason and "device a" not in reason
    assert "dilation" in reason
    assert judged(spans=[*fine, span(2e-3, True, took_s=4e-3)], paced=False)["ok"]


def test_operations_may_be_as_late_as_an_empty_one_is_here_and_no_later() -> None:
    here = Calibrated("quick", pacing_floor_s=0.15e-3)  # as in User-Mode Linux
    late = [span(4e-3, True, took_s=4.14e-3)] * 100  # 3.5 %
    assert judged(spans=late, calibrated=here)["ok"] and not judged(spans=late)["ok"]
    [reason] = judged(spans=[span(4e-3, True, took_s=4.16e-3)] * 100, calibrated=here)["reasons"]
    assert "device b 4 % (100 of 100 late)" in reason
    long = [span(20e-3, True, took_s=20.5e-3)] * 100  # 2.5 %: more than a floor, and more than its share
    assert not judged(spans=long, calibrated=here)["ok"]


def test_a_few_late_operations_of_a_device_that_hardly_computes_are_not_held_against_the_run() -> None:
    assert judged(spans=[span(2e-3, True, took_s=4e-3)] * 4)["ok"]
    assert not judged(spans=[span(2e-3, True, took_s=4e-3)] * 5)["ok"]


def test_early_operations_do_not_make_up_for_late_ones() -> None:
    late = [span(2e-3, True, took_s=2.2e-3)] * 50
    assert not judged(spans=[*late, *[span(2e-3, False, took_s=1.5e-3)] * 50])["ok"]


def test_operations_too_short_to_pace_are_noted_and_not_held_against_the_run() -> None:
    short = [span(1e-4, True, took_s=4e-4)] * 100
    found = judged(spans=short, tokens=[token(0.04, 0.0)] * 2)
    assert found["ok"]
    [note] = found["notes"]
    assert "about 38 % of the decode time" in note  # 100 × 0.3 ms of 80 ms


def test_the_testbeds_own_work_in_the_prefill_is_not_counted() -> None:
    assert judged(tokens=[token(1.0, 0.9, prefill=True), token(0.1, 0.0)])["notes"] == []
    assert judged(tokens=[token(0.1, 0.02)])["notes"]


def test_transfers_do_not_count_as_operations() -> None:
    moved = {"kind": "transfer", "device": "b", "due_s": None, "overrun": False, "step": 1, "start_s": 0, "end_s": 1}
    assert judged(spans=[moved])["ok"]


def test_a_memory_limit_that_the_kernel_has_otherwise_is_a_reason() -> None:
    facts = {"memory": "enforced by cgroup v1", "memory_limits": {"a": (100, 100), "b": (100, 4096)}}
    [reason] = judged(facts)["reasons"]
    assert reason == "device b: the memory limit was set to 100 bytes and the kernel says 4096"


def test_memory_that_no_kernel_enforces_is_a_note() -> None:
    found = judged({"memory": "not enforced by a kernel", "notes": ["something else"]})
    assert found["ok"]
    assert found["notes"] == ["memory limits are not enforced by a kernel", "something else"]


def test_what_counts_as_too_short_grows_with_the_hosts_own_lateness() -> None:
    late = [span(5e-3, True, took_s=6e-3)] * 10
    assert not judged(spans=late)["ok"]
    assert judged(spans=late, calibrated=Calibrated(pacing_floor_s=4e-4))["ok"]


@pytest.mark.parametrize(
    ("expected", "measured", "ok"),
    [
        (1e-3, 1.9e-3, True),
        (1e-3, 2.1e-3, False),
        (2e-2, 2.39e-2, True),
        (2e-2, 2.41e-2, False),
        (2e-2, 1.59e-2, False),
    ],
)
def test_a_delay_that_is_not_kept_is_a_reason(expected: float, measured: float, ok: bool) -> None:
    found = judged(calibrated=Calibrated(delays=[DelayResult("a", "b", expected, measured)]))
    assert found["ok"] == ok
    assert ok or "path a to b: a delay of" in found["reasons"][0]
    assert judged(calibrated=Calibrated(delays=[DelayResult("a", "b", expected, measured)]), asked=Asked(shaken=True))[
        "ok"
    ]


@pytest.mark.parametrize(
    ("idle_share", "share", "ok"),
    [
        (0.0, 0.09, True),
        (0.0, 0.11, False),
        (0.05, 0.14, True),
        (0.05, 0.16, False),
        (0.5, 0.19, True),
        (0.5, 0.21, False),
    ],
)
def test_a_device_that_waits_for_the_hosts_cpu_is_a_reason_with_its_worst_interval(
    idle_share: float, share: float, ok: bool
) -> None:
    rows = [{"device": "b", "first": first, "last": first + 7, "span_s": 2.0, "wait_s": 2.0 * part}
            for first, part in ((0, 0.0), (8, share), (16, share / 2))]  # fmt: skip
    found = judged(waits=rows, calibrated=Calibrated(wait_share=idle_share))
    assert found["ok"] == ok
    assert ok or found["reasons"][0].startswith(f"device b waited {100 * share:.0f} % of tokens 8-15 ")
    assert judged(waits=rows, paced=False)["ok"]


def test_a_reason_names_the_worst_devices_and_counts_the_rest() -> None:
    waits = [
        {"device": f"d{index}", "first": 0, "last": 7, "span_s": 1.0, "wait_s": 0.2 + index / 100} for index in range(7)
    ]
    [reason] = judged(waits=waits)["reasons"]
    assert reason.startswith("device d6 waited 26 %") and "and 3 more for the host's CPU" in reason
    assert "d2" not in reason


def test_a_change_that_came_late_on_the_time_clock_is_a_reason() -> None:
    rows = [link(1e8, 1e8, "a") | {"lag_s": 0.04}, link(1e8, 1e8) | {"lag_s": 0.06}, link(1e8, 1e8) | {"lag_s": 0.25}]
    timed = Asked(time_clock=True)
    assert judged(links=rows[:1], asked=timed)["ok"]
    [reason] = judged(links=rows, asked=timed)["reasons"]
    assert "link b by 250 ms" in reason and "link a" not in reason
    assert judged(links=rows)["ok"]  # on the token clock the run waits for it


def dropped(count: int, sent_bytes: int = 15_140_000, device: str = "b", rate_bps: float = 1e8) -> dict[str, Any]:
    return link(rate_bps, rate_bps, device) | {"dropped": count, "sent_bytes": sent_bytes}  # 10,000 frames


def test_frames_that_a_queue_dropped_are_noted_and_many_are_a_reason() -> None:
    found = judged(links=[dropped(0), dropped(50), dropped(90)])
    assert found["ok"] and found["notes"] == ["the queue of link b up dropped 90 frames; TCP sent them again"]
    [reason] = judged(links=[dropped(90), dropped(110)])["reasons"]
    assert "link b up dropped 110 frames (1.1 %)" in reason


def test_frames_that_an_outage_or_a_loss_that_was_asked_for_dropped_are_not_judged() -> None:
    assert judged(links=[dropped(500)], asked=Asked(lossy={"b"})) == {"ok": True, "reasons": [], "notes": []}
    assert judged(links=[dropped(5, rate_bps=0.0), dropped(500)]) == {"ok": True, "reasons": [], "notes": []}


def test_a_run_that_did_not_queue_behind_others_says_so() -> None:
    found = judged(asked=Asked(shared_host=True))
    assert found["ok"] and "--share-host" in found["notes"][0]


def test_cores_that_others_took_are_a_reason_also_where_compute_is_not_paced() -> None:
    row = {"first_step": 0, "last_step": 7, "span_s": 2.0, "cores": 2, "others_share": 0.85, "idle_share": 0.0}
    [reason] = judged(host=[row], paced=False)["reasons"]
    assert "other processes took 85 %" in reason
