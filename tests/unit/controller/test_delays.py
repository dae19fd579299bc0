"""Each link's own delay, judged from a run's messages: a wrong one is named, and its neighbours are not."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from simulated import experiment

from testbed.clock import EmulatedClock
from testbed.controller.conditions import Conditions
from testbed.controller.delays import LEAST_MESSAGES, DelayRecord
from testbed.controller.fleet import TargetState
from testbed.controller.startup_calibration import Calibrated
from testbed.controller.verdict import Asked, verdict
from testbed.placement.latency import message_bits
from testbed.topologies.links import Hop
from testbed.transport.messages import Span

PAIRS = [("a", name) for name in "bcd"] + [(name, "a") for name in "bcd"]


def target() -> TargetState:
    return Conditions(experiment(changes=())).target()


def messages(
    extra: dict[Hop, float], count: int = 40, jitter_s: float = 0.0, loss: float = 0.0, asked: TargetState | None = None
) -> list[Span]:
    """Messages one after another over links as asked, but for these delays on top, and a little noise.

    Those to b meet a jitter and a loss.
    """
    asked, drawn, found = asked or target(), random.Random(1), []
    for number in range(count):
        for place, (sender, receiver) in enumerate(PAIRS):
            route = ((sender, "up"), (receiver, "down"))
            took_s = asked.delay_s(route) + message_bits(3000) / asked.rate_bps(route) + drawn.uniform(0, 1e-4)
            if receiver == "b":
                took_s += drawn.uniform(-jitter_s, jitter_s) + 0.2 * (drawn.random() < loss)
            sent_s = number + place / 10
            end_s = sent_s + took_s + sum(extra.get(hop, 0.0) for hop in route)
            found.append(Span(number, 0, "transfer", "x(0)", sender, receiver, sent_s, end_s, 3000, 0.0, False, 0.0))
    return found


def judged(spans: list[Span], asked: TargetState | None = None) -> list[str]:
    record = DelayRecord(experiment(changes=()), EmulatedClock(), lambda rate: 0.0)
    record.hear(spans, asked or target())
    kept: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("links", "rates", "spans", "tokens", "waits", "host")
    }
    found = verdict(kept | {"delays": record.rows()}, {"memory": "enforced"}, Calibrated(), Asked())["reasons"]
    assert isinstance(found, list)
    return found


def test_links_with_the_delays_that_were_asked_for_are_faithful() -> None:
    assert judged(messages({})) == []


@pytest.mark.parametrize("name", "bcd")
def test_a_link_with_two_milliseconds_instead_of_one_is_named_and_no_other(name: str) -> None:
    reasons = judged(messages({(name, "up"): 1e-3, (name, "down"): 1e-3}))
    assert [reason.split(":")[0] for reason in reasons] == [f"link {name} down", f"link {name} up"]


def test_one_wrong_direction_is_named() -> None:
    reasons = judged(messages({("a", "up"): 1e-3}))
    assert [reason.split(":")[0] for reason in reasons] == ["link a up"]


def shaky(jitter_s: float = 0.0, loss: float = 0.0) -> TargetState:
    asked = target()
    b = replace(asked.links["b"], down_delay_s=5e-3, down_jitter_s=jitter_s, down_loss=loss)
    return replace(asked, links=dict(asked.links) | {"b": b})


@pytest.mark.parametrize("jitter_s, loss", [(3e-3, 0.0), (0.0, 0.02), (3e-3, 0.02)])
def test_jitter_and_loss_as_asked_are_faithful_and_none_of_them_is_named(jitter_s: float, loss: float) -> None:
    asked = shaky(jitter_s, loss)
    assert judged(messages({}, 1000, jitter_s, loss, asked), asked) == []
    reasons = judged(messages({}, 1000, 0.0, 0.0, asked), asked)
    told = [word for word, is_asked in (("vary by", jitter_s), ("after a loss", loss)) if is_asked]
    assert len(reasons) == len(told)
    for reason, word in zip(reasons, told, strict=True):
        assert reason.startswith("link b down: ") and word in reason


def test_a_jitter_around_another_delay_than_asked_is_named() -> None:
    asked = shaky(3e-3)
    reasons = judged(messages({("b", "down"): 4e-3}, 1000, 3e-3, 0.0, asked), asked)
    assert [reason.split(":")[0] for reason in reasons] == ["link b down"] and "met a delay of" in reasons[0]


def test_too_few_messages_are_not_judged() -> None:
    assert judged(messages({("b", "up"): 1.0}, count=LEAST_MESSAGES - 1)) == []


def test_messages_that_wait_for_others_are_not_taken_for_delayed() -> None:
    spans = messages({})
    late = [
        Span(
            each.step, 0, "transfer", "x(1)", each.device, each.peer, each.start_s, each.end_s + 2e-3, 3000, 0, False, 0
        )
        for each in spans
    ]
    assert judged([each for pair in zip(spans, late, strict=True) for each in pair]) == []
