"""The same experiment again gives the same tokens, the same placements and nearly the same latencies."""

from __future__ import annotations

from typing import Any

import pytest
from host_pace import judging_time
from running import QUICKSTART, UNJUDGED, Ended, Place, rows

pytestmark = pytest.mark.quiet
RUNS = 3
SPREAD = 0.03
DILATED = 0.03  # measured on an idle host: 1.4 %, because dilation makes this testbed's own time per hop weigh less
SOFTWARE = 0.05  # of the decode time, at most; measured: 1.0 %
MOST_RUNS = 7  # of which RUNS must agree: others may be using this host now and then

SQUEEZE = "time,target,quantity,value\n0,device/b,memory,40 MiB\n4,device/b,memory,16 MiB\n"
SHORT = ("--tokens", "16", "--set", "interval=4", "--backend", "mininet")


def _run(place: Place, *options: str) -> Ended:
    """The quick start with these options. Its logits are compared with the reference's elsewhere."""
    ended = place.replay(QUICKSTART, *UNJUDGED, *options)
    assert ended.code == 0, ended.err
    return ended


def _median_ms(ended: Ended) -> float:
    return float(ended.summary["token_latency_ms"]["p50"])


def _spread(medians: list[float]) -> float:
    """How far the RUNS medians that are nearest to each other lie apart."""
    ordered = sorted(medians)
    return min(ordered[low + RUNS - 1] / ordered[low] - 1 for low in range(len(ordered) - RUNS + 1))


def _software(ended: Ended) -> float:
    """Share of the decode time that was this testbed's own."""
    decoded = [row for row in rows(ended.folder, "tokens") if not row["prefill"]]
    return float(sum(row["software_s"] for row in decoded) / sum(row["latency_s"] for row in decoded))


def _placements(ended: Ended) -> list[tuple[Any, ...]]:
    return [(row["epoch"], row["step"], row["block"], row["device"]) for row in rows(ended.folder, "placements")]


@pytest.mark.timeout(300)
def test_the_same_experiment_again_gives_the_same_tokens_and_placements_as_fast(place: Place) -> None:
    (place.base / "squeeze.csv").write_text(SQUEEZE)
    trace = ("--set", f"traces=[{place.base}/squeeze.csv]", "--set", "trace_clock=token")
    first = _run(place, *SHORT, *trace)
    assert first.summary["migrations"] > 0
    medians = [_median_ms(first)]
    while len(medians) < RUNS or (_spread(medians) >= SPREAD and len(medians) < MOST_RUNS):
        again = _run(place, *SHORT, *trace)
        assert again.summary["tokens"] == first.summary["tokens"]
        assert _placements(again) == _placements(first)
        medians.append(_median_ms(again))
    with judging_time():
        assert _spread(medians) < SPREAD, medians


@pytest.mark.timeout(300)
def test_a_run_twice_as_slow_as_life_reports_the_same_latencies_where_software_takes_little(place: Place) -> None:
    plain = ("--tokens", "8", "--set", "traces=[]", "--policy", "static", "--backend", "mininet")
    once, twice = (_run(place, *plain, "--set", f"dilation={factor}") for factor in (1, 2))
    assert once.summary["tokens"] == twice.summary["tokens"]
    with judging_time():
        assert abs(_median_ms(twice) / _median_ms(once) - 1) < DILATED and _software(once) < SOFTWARE
