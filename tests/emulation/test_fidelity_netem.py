"""netem adds the delays it is asked for and loses what it should, and a receiver that holds messages does as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from host_pace import judging_time
from running import Place, rows, topology, write_experiment

from testbed.doctor.bench_delay import DELAYS_S, JITTERS_S, LOSSES, JitterMeasured, LossMeasured
from testbed.doctor.finding import Finding
from testbed.doctor.host_checks import measure_netem

pytestmark = [pytest.mark.quiet, pytest.mark.needs_netem, pytest.mark.timeout(300)]
DIRECTIONS = ("up", "down")
DELAY_MS = {"a": 20, "b": 5, "c": 12, "d": 30}  # of their links
AGREE = 0.05


@pytest.fixture(scope="module")
def findings() -> dict[str, Finding]:
    """What `testbed doctor --full` said of netem so far, by name."""
    return {}


@pytest.fixture
def report(findings: dict[str, Finding], request: pytest.FixtureRequest) -> dict[str, Finding]:
    """The same once it was measured, and measured again where a test is repeated."""
    if not findings or request.node.execution_count > 1:
        findings |= {finding.name: finding for finding in measure_netem()}
    return findings


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("delay_s", DELAYS_S)
def test_each_direction_is_delayed_by_what_was_asked_within_half_a_millisecond(
    delay_s: float, direction: str, report: dict[str, Finding]
) -> None:
    finding = report[f"delay {direction} {1e3 * delay_s:g} ms"]
    assert finding.measured["asked_s"] == delay_s
    assert finding.fidelity
    with judging_time():
        assert finding.measured["added_s"] == pytest.approx(delay_s, abs=0.5e-3) and finding.ok, finding.detail


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("jitter_s", JITTERS_S)
def test_delays_of_each_direction_vary_as_was_asked_or_somewhat_less(
    jitter_s: float, direction: str, report: dict[str, Finding]
) -> None:
    finding = report[f"jitter {direction} {1e3 * jitter_s:g} ms"]
    assert finding.fidelity
    with judging_time():
        assert 0.5 * jitter_s <= finding.measured["shown_s"] <= 1.25 * jitter_s and finding.ok, finding.detail


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("loss", LOSSES)
def test_each_direction_loses_what_was_asked_within_binomial_bounds(
    loss: float, direction: str, report: dict[str, Finding]
) -> None:
    finding = report[f"loss {direction} {100 * loss:g} %"]
    lost, sent = finding.measured["lost"], finding.measured["sent"]
    assert sent >= 4000 and abs(lost - sent * loss) < 4.0 * (sent * loss * (1 - loss)) ** 0.5, finding.detail
    assert finding.ok and finding.fidelity


@pytest.mark.parametrize("lost", [0, 40, 400])
def test_another_share_of_loss_would_be_noticed(lost: int) -> None:
    assert not LossMeasured(0.05, 4000, lost).ok and LossMeasured(0.05, 4000, 230).ok


def test_another_jitter_would_be_noticed() -> None:
    assert not JitterMeasured(3e-3, 0.1e-3).ok and not JitterMeasured(1e-3, 3e-3).ok and JitterMeasured(3e-3, 2.4e-3).ok


def test_held_messages_agree_with_netem_token_by_token(place: Place, tmp_path: Path) -> None:
    links = {name: {"rate": "200 Mbit/s", "delay": f"{delay} ms"} for name, delay in DELAY_MS.items()}
    slow = {name: {"link": link} for name, link in links.items()}
    experiment = write_experiment(tmp_path, topology=topology(**slow), policy="round-robin", interval=12)
    by_netem, held = (_latencies(place, experiment, delay) for delay in ("netem", "transport"))
    assert len(by_netem) == len(held) >= 11
    assert min(by_netem) > 0.1  # seconds: the delays are most of it
    with judging_time():
        assert max(abs(one / other - 1) for one, other in zip(held, by_netem, strict=True)) < AGREE


def _latencies(place: Place, experiment: Path, delay: str) -> list[float]:
    ended = place.done(experiment, "--set", f"delay={delay}", "--backend", "mininet")
    tokens: list[dict[str, Any]] = rows(ended.folder, "tokens")
    return [row["latency_s"] for row in tokens if not row["prefill"]]
