"""Calibration looks again where a probe falls short, and believes the best it saw."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from placement_cases import quickstart

from testbed.clock import EmulatedClock
from testbed.controller.startup_calibration import PROBE_ATTEMPTS, Calibrated, calibrate
from testbed.transport.messages import Collected, Paced, Pinged, Probe, Probed
from testbed.wire import TCP_SHARE

RATE_BPS = {("a", "b"): 1e8, ("b", "c"): 1e8, ("c", "d"): 5e7, ("d", "a"): 5e7}


def calibrated(
    shares: dict[tuple[str, str], list[float]], dilation: float = 1.0, late_s: float = 0.0, held_s: float = 0.0
) -> tuple[Calibrated, list[Any]]:
    """What is found where probes reach these shares of what TCP can get, one after another; and all that was sent.

    With `late_s` every receiver stamps the first frame of a burst so late; with `held_s` every sender sends it so long
    after its stamp.
    """
    observation = quickstart()
    sent: list[Any] = []
    left = {pair: iter(found) for pair, found in shares.items()}

    def answer(kind: type[Any], device: str) -> Any:
        sender, command = sent[-1]
        if kind is Pinged:
            return Pinged(command.peer, [0.002 * dilation] * command.count)
        if kind is Collected:
            return Collected(0, [], 0, 0.0)
        if kind is Paced:
            return Paced([0.0])
        assert kind is Probed and device == command.peer
        pair = (sender, device)
        rate_bps = RATE_BPS[pair] / dilation * TCP_SHARE * next(left.get(pair, iter([1.0])))
        seconds = command.size * 8 / rate_bps
        delay_s = sum(leg.delay_s for leg in observation.path(*pair)) * dilation
        return Probed(sender, command.size, seconds - late_s, held_s + delay_s + seconds)

    def send(device: str, command: Any) -> None:
        sent.append((device, command))

    fleet: Any = SimpleNamespace(clock=EmulatedClock(dilation), send=send)
    return calibrate("quick", fleet, answer, observation), sent


def probes(sent: list[Any]) -> list[tuple[str, str]]:
    return [(sender, command.peer) for sender, command in sent if isinstance(command, Probe)]


@pytest.mark.parametrize("dilation", [1.0, 2.0])
def test_each_link_is_probed_once_where_all_is_well(dilation: float) -> None:
    found, sent = calibrated({}, dilation)
    assert probes(sent) == list(RATE_BPS)
    assert [probe.requested_bps for probe in found.probes] == list(RATE_BPS.values())


@pytest.mark.parametrize("dilation", [1.0, 2.0])
def test_a_probe_that_falls_short_is_made_again_until_one_does_not_and_the_best_counts(dilation: float) -> None:
    found, sent = calibrated({("b", "c"): [0.05, 0.4, 0.97, 0.2]}, dilation)
    assert probes(sent).count(("b", "c")) == 3 and len(probes(sent)) == 6
    seconds = found.probes[1].size * 8 / (1e8 * TCP_SHARE * 0.97) * dilation
    assert found.probes[1].seconds == pytest.approx(seconds)


def test_a_link_that_always_falls_short_is_told_as_it_was_at_its_best() -> None:
    found, sent = calibrated({("c", "d"): [0.3, 0.6, 0.2, 0.1, 0.5]})
    assert probes(sent).count(("c", "d")) == PROBE_ATTEMPTS == 5
    assert found.probes[2].size * 8 / found.probes[2].seconds == pytest.approx(5e7 * TCP_SHARE * 0.6)


def test_a_link_that_is_too_fast_stays_so() -> None:
    found, sent = calibrated({("a", "b"): [1.3, 1.0]})
    assert probes(sent).count(("a", "b")) == 1
    assert found.probes[0].size * 8 / found.probes[0].seconds == pytest.approx(1e8 * TCP_SHARE * 1.3)


@pytest.mark.parametrize("dilation", [1.0, 2.0])
def test_a_receiver_that_was_woken_late_makes_no_link_seem_too_fast(dilation: float) -> None:
    found, sent = calibrated({}, dilation, late_s=0.02)
    assert probes(sent) == list(RATE_BPS)
    for probe in found.probes:
        assert dilation * probe.size * 8 / probe.seconds == pytest.approx(probe.requested_bps * TCP_SHARE)


def test_a_sender_that_was_held_up_makes_no_link_seem_slow() -> None:
    found, sent = calibrated({("b", "c"): [1.2]}, held_s=0.05)
    assert probes(sent) == list(RATE_BPS)
    for probe in found.probes:
        assert probe.size * 8 / probe.seconds == pytest.approx(probe.requested_bps * TCP_SHARE)
    found, _ = calibrated({("b", "c"): [1.2]}, late_s=0.001)
    assert found.probes[1].size * 8 / found.probes[1].seconds == pytest.approx(1.2e8 * TCP_SHARE)
