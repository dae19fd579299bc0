"""Each link's own delay, judged from a run's messages: a wrong one is named, and its neighbours are not."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from simulated import experiment

from testbed.clock import EmulatedClock
from testbed.controller.conditions import Conditions
from testbed.controller.delays import UNSETTLED_S, DelayRecord, counted, of_one_piece
from testbed.controller.fleet import LinkSample, TargetState
from testbed.controller.link_errors import LEAST_MESSAGES, Counted, poisson_tail
from testbed.controller.startup_calibration import Calibrated
from testbed.controller.verdict import Asked, verdict
from testbed.experiment.schema import Experiment
from testbed.placement.latency import message_bits
from testbed.topologies.links import Hop
from testbed.transport.messages import Span

STAR = experiment(changes=())
HUB = [("a", name) for name in "bcd"] + [(name, "a") for name in "bcd"]
ALL = [(sender, receiver) for sender in "abcd" for receiver in "abcd" if sender != receiver]
MS = 1e-3


def target(of: Experiment = STAR) -> TargetState:
    return Conditions(of).target()


def messages(
    extra: Mapping[Hop, float],
    count: int = 40,
    jitter_s: float = 0.0,
    asked: TargetState | None = None,
    pairs: Sequence[tuple[str, str]] = HUB,
    since: float = 0.0,
    of: Experiment = STAR,
) -> list[Span]:
    """Messages one after another over links as asked, but for these delays on top, and a little noise.

    Those to b meet a jitter.
    """
    asked, drawn, found = asked or target(of), random.Random(1), []
    for number in range(count):
        for place, (sender, receiver) in enumerate(pairs):
            route = of.topology.route(sender, receiver)
            took_s = asked.delay_s(route) + message_bits(1000) / asked.rate_bps(route) + drawn.uniform(0, 1e-4)
            took_s += drawn.uniform(-jitter_s, jitter_s) if receiver == "b" else 0.0
            sent_s = since + number + place / 20
            end_s = sent_s + took_s + sum(extra.get(hop, 0.0) for hop in route)
            found.append(Span(number, 0, "transfer", "x(0)", sender, receiver, sent_s, end_s, 1000, 0.0, False, 0.0))
    return found


def recorded(asked: TargetState | None = None, of: Experiment = STAR) -> DelayRecord:
    record = DelayRecord(of, EmulatedClock(), lambda rate: 0.0)
    record.asked(asked or target(of), -1.0)
    return record


def named(record: DelayRecord, spans: Sequence[Span] = ()) -> list[str]:
    """The reasons of a run that heard these messages."""
    record.hear(spans)
    record.end_interval()
    kept: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("links", "rates", "spans", "tokens", "waits", "host")
    }
    found = verdict(kept | {"delays": record.rows(0.0)}, {"memory": "enforced"}, Calibrated(), Asked())["reasons"]
    assert isinstance(found, list)
    return found


def links(reasons: Sequence[str]) -> list[str]:
    return [reason.split(":")[0].removeprefix("link ") for reason in reasons]


def test_links_with_the_delays_that_were_asked_for_are_faithful() -> None:
    assert named(recorded(), messages({})) == []


@pytest.mark.parametrize("name", "bcd")
def test_a_link_with_two_milliseconds_instead_of_one_is_named_and_no_other(name: str) -> None:
    assert links(named(recorded(), messages({(name, "up"): MS, (name, "down"): MS}))) == [f"{name} down", f"{name} up"]


def test_one_wrong_direction_is_named() -> None:
    assert links(named(recorded(), messages({("a", "up"): MS}))) == ["a up"]


def test_two_links_whose_delays_are_exchanged_are_named_although_they_cancel_between_them() -> None:
    slow, fast = ("a", "b")
    wrong = {(slow, way): MS for way in ("up", "down")} | {(fast, way): -MS for way in ("up", "down")}
    asked = target()
    asked = replace(
        asked, links={**asked.links, "b": replace(asked.links["b"], up_delay_s=2 * MS, down_delay_s=2 * MS)}
    )
    reasons = named(recorded(asked), messages(wrong, asked=asked, pairs=ALL))
    assert links(reasons) == ["a down", "a up", "b down", "b up"]


@pytest.mark.parametrize("extra_s", [MS, -0.9 * MS])
def test_a_delay_that_is_wrong_in_a_quarter_of_the_run_is_named(extra_s: float) -> None:
    asked = target()
    asked = replace(asked, links={**asked.links, "b": replace(asked.links["b"], up_delay_s=MS)})
    right, wrong = messages({}, 300, asked=asked), messages({("b", "up"): extra_s}, 100, asked=asked, since=300.0)
    assert links(named(recorded(asked), right + wrong)) == ["b up"]


def test_a_change_of_a_delay_that_was_not_carried_out_is_named() -> None:
    before = target()
    after = replace(before, links={**before.links, "b": replace(before.links["b"], up_delay_s=5 * MS)})
    record = recorded(before)
    record.hear(messages({}))
    record.asked(after, 99.0)
    (reason,) = named(record, messages({("b", "up"): before.links["b"].up_delay_s - 5 * MS}, asked=after, since=100.0))
    assert reason.startswith("link b up: ") and reason.endswith("where 5 ms is asked")


def test_messages_around_a_change_are_not_judged() -> None:
    record, after = recorded(), target()
    for change in range(100):  # each time to what was asked before, or to another rate
        rate_bps = after.links["b"].up_bps * (1 + change % 2)
        record.replayed(LinkSample("b", "up", rate_bps, rate_bps, rate_bps, 0.0), change - UNSETTLED_S / 2)
    assert named(record, messages({(name, "up"): 1.0 for name in "abcd"}, 100, pairs=[("a", "b")])) == []


def shaky(jitter_s: float) -> TargetState:
    asked = target()
    return replace(
        asked, links={**asked.links, "b": replace(asked.links["b"], down_delay_s=8 * MS, down_jitter_s=jitter_s)}
    )


@pytest.mark.parametrize("shown_s, told", [(3 * MS, 0), (0.0, 1), (7 * MS, 1)])
def test_a_jitter_that_messages_do_not_show_is_named(shown_s: float, told: int) -> None:
    asked = shaky(3 * MS)
    reasons = named(recorded(asked), messages({}, 1000, shown_s, asked))
    assert links(reasons) == ["b down"] * told
    assert all("vary by" in reason and "a jitter of 3 ms is asked" in reason for reason in reasons)


def test_a_jitter_around_another_delay_than_asked_is_named() -> None:
    asked = shaky(3 * MS)
    (reason,) = named(recorded(asked), messages({("b", "down"): 4 * MS}, 1000, 3 * MS, asked))
    assert reason.startswith("link b down: messages met a delay of")


@pytest.mark.parametrize("pieces", [3, 8])
def test_a_message_in_pieces_tells_of_its_links_jitter_what_one_piece_would(pieces: int) -> None:
    drawn = random.Random(2)
    last = [max(drawn.uniform(-3 * MS, 3 * MS) for _ in range(pieces)) for _ in range(4000)]
    alike = sorted(of_one_piece(off_s, pieces, 3 * MS) for off_s in last)
    for share in (0.1, 0.5, 0.9):
        assert alike[int(share * 4000)] == pytest.approx(3 * MS * (2 * share - 1), abs=0.2 * MS)
    assert of_one_piece(4 * MS, pieces, 3 * MS) == 4 * MS  # the host's doing


def queue(frames: int, lost: int, size: int = 300) -> LinkSample:
    return LinkSample("b", "down", 1e8, 1e8, 1e8, 0.0, sent_bytes=size * frames, sent_frames=frames, dropped=lost)


@pytest.mark.parametrize("lost, told", [(0, 1), (3, 1), (20, 0), (60, 1)])
def test_a_loss_that_a_queue_does_not_count_is_named(lost: int, told: int) -> None:
    asked = target()
    lossy = replace(asked, links={**asked.links, "b": replace(asked.links["b"], down_loss=0.02)})
    record = recorded(lossy)
    record.count([queue(500, 30)])  # before token 0
    record.count([queue(1000 - lost // 2, 30 + lost // 2)])
    record.count([queue(1500 - lost, 30 + lost)])
    reasons = named(record)
    assert reasons == [f"link b down: {lost} of 1000 frames were lost where a loss of 2 % is asked"] * told


def test_a_queue_that_gets_large_pieces_decides_seldom_and_may_lose_few() -> None:
    large = counted(queue(0, 0), queue(1000, 1, size=1514), burst_bits=8 * 15140)
    assert large == Counted(1001, pytest.approx(101), 1) and large.as_asked(0.02)
    small = counted(queue(0, 0), queue(1000, 1, size=100), burst_bits=8 * 15140)
    assert small.decisions > 900 and not small.as_asked(0.02)


def test_counts_are_judged_by_their_probability() -> None:
    assert poisson_tail(0, 5.0, below=True) == pytest.approx(0.006738, rel=1e-3)
    assert poisson_tail(9, 5.0, below=True) + poisson_tail(10, 5.0, below=False) == pytest.approx(1.0)
    assert poisson_tail(0, 0.0, below=False) == 1.0 and poisson_tail(1, 0.0, below=False) == 0.0


def test_too_few_messages_are_not_judged() -> None:
    assert named(recorded(), messages({("b", "up"): 1.0}, count=LEAST_MESSAGES - 1)) == []


def test_messages_that_wait_for_others_are_not_taken_for_delayed() -> None:
    spans = messages({})
    late = [msgspec.structs.replace(each, block="x(1)", end_s=each.end_s + 2 * MS) for each in spans]
    assert named(recorded(), [each for pair in zip(spans, late, strict=True) for each in pair]) == []


def test_messages_that_wait_on_a_link_between_switches_are_not_taken_for_delayed() -> None:
    tiers = {
        "shape": "two-tier", "source": "a", "clusters": {"one": ["a", "b"], "two": ["c", "d"]},
        "devices": {name: STAR.to_dict()["topology"]["devices"]["b"] for name in "abcd"},
        "backhaul": {"rate": "20 Mbit/s", "delay": "2 ms"},
    }  # fmt: skip
    of = Experiment.from_dict(STAR.to_dict() | {"topology": tiers, "placement": None})
    apart = messages({}, pairs=[("a", "c"), ("b", "d")], of=of)
    assert named(recorded(of=of), apart) == []
    sooner_s = 0.0499  # those of b then come to the backhaul just after those of a, and wait
    together = [
        each if each.device == "a" else msgspec.structs.replace(
            each, start_s=each.start_s - sooner_s, end_s=each.end_s - sooner_s + MS
        )
        for each in apart
    ]  # fmt: skip
    assert named(recorded(of=of), together) == []
    assert links(named(recorded(of=of), [each for each in together if each.device == "b"]))  # alone they would be late
