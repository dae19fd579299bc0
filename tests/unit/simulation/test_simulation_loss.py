"""Loss and jitter in simulated runs: what is drawn for a message, and that a run repeats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import fmean, median
from typing import Any

import pytest
from simulated import experiment, simulated

from testbed.controller.conditions import Conditions, observe
from testbed.experiment.schema import Experiment
from testbed.placement.cost.model import token_latency
from testbed.placement.latency import transfer_seconds
from testbed.placement.plan import make_plan
from testbed.placement.policies import make_policy
from testbed.simulation.drawn_delays import PROBE_LEAST_S, TIMEOUT_S, DrawnDelays, packets_of
from testbed.topologies.links import Link

PLAIN = Link(100e6, 100e6, 0.005, 0.005)
ONE, THREE = 500.0, 4000.0  # payloads of so many packets
DRAWS = 4000


def model(changed: dict[str, float], dilation: float = 1.0, number: int = 1, of: Experiment | None = None) -> Any:
    """The model of a token on four devices whose links are PLAIN but for these changes at device a's."""
    of = of or experiment("model.preset=tiny", changes=())
    conditions = Conditions(of)
    conditions.begin()
    seen = observe(of, conditions, 10, 0)
    views = {name: replace(view, up_bps=100e6, down_bps=100e6, up_delay_s=0.005, down_delay_s=0.005)
             for name, view in seen.links.items()}  # fmt: skip
    links = {name: replace(PLAIN, **changed) if name == "a" else PLAIN for name in views}
    return DrawnDelays(replace(seen, links=views), links, dilation, Random(number))


def extra(found: DrawnDelays, payload: float, pair: tuple[str, str] = ("a", "b")) -> list[float]:
    """By how much messages are later than without loss and jitter."""
    plain = sum(leg.delay_s for leg in found.observation.path(*pair))
    return [sum(leg.delay_s for leg in found.path(*pair, payload)) - plain for _ in range(DRAWS)]


def test_the_messages_of_these_tests_have_one_packet_and_three() -> None:
    assert (packets_of(0.0), packets_of(ONE), packets_of(THREE)) == (1, 1, 3)


def test_a_packets_delay_is_even_over_delay_and_jitter() -> None:
    found = sorted(extra(model({"up_jitter_s": 0.002}), ONE))
    assert found[0] >= -0.002 and found[-1] <= 0.002 and abs(fmean(found)) < 1e-4
    for quarter in (1, 2, 3):
        assert found[quarter * DRAWS // 4] == pytest.approx(-0.002 + quarter * 0.001, abs=1e-4)


def test_a_message_waits_for_the_slowest_of_its_packets() -> None:
    found = extra(model({"up_jitter_s": 0.002}), THREE)
    assert fmean(found) == pytest.approx(0.002 * (2 * 3 / 4 - 1), abs=1e-4)  # the mean of the largest of three


def test_only_the_direction_that_varies_is_drawn() -> None:
    assert set(extra(model({"up_jitter_s": 0.002, "up_loss": 0.5}), ONE, ("b", "a"))) == {0.0}


@pytest.mark.parametrize(("payload", "packets"), [(ONE, 1), (THREE, 3)])
def test_so_many_messages_are_late_as_have_a_lost_packet(payload: float, packets: int) -> None:
    late = sum(found > 0 for found in extra(model({"up_loss": 0.05}), payload))
    share = 1 - 0.95**packets
    assert late / DRAWS == pytest.approx(share, abs=4 * (share * (1 - share) / DRAWS) ** 0.5)


@pytest.mark.parametrize("dilation", [1.0, 4.0])
def test_a_message_of_one_packet_waits_for_a_timeout_that_doubles(dilation: float) -> None:
    found = model({"up_loss": 0.2}, dilation)
    paths = [found.observation.path(*pair) for pair in (("a", "b"), ("b", "a"))]
    timeout_s = transfer_seconds(paths[0], ONE) + transfer_seconds(paths[1], 0.0) + TIMEOUT_S / dilation
    late = [seconds for seconds in extra(found, ONE) if seconds]
    assert {round(seconds / timeout_s, 6) for seconds in late} >= {1.0, 2.0, 4.0}
    assert sum(seconds == pytest.approx(timeout_s) for seconds in late) / len(late) == pytest.approx(0.8, abs=0.06)


def test_later_packets_tell_of_a_lost_one_sooner_than_a_timeout() -> None:
    late = sorted(seconds for seconds in extra(model({"up_loss": 0.01}), THREE) if seconds)
    assert 0.02 < late[0] < 0.03, "1.25 round trips where a later packet came through"
    assert median(late) < 2 * 0.03 + PROBE_LEAST_S + 0.03, "and a probe where none did"


def test_without_either_now_a_token_takes_what_the_cost_model_says() -> None:
    for overrides in ([], ["partition.ffn_shards=4", "partition.proj_rows=true", "partition.exchange=all-to-all"]):
        of = experiment("model.preset=tiny", *overrides, changes=())
        found = model({}, of=of)
        seen = found.observation
        policy = make_policy("round-robin", {})
        policy.reset(1)
        plan = make_plan(seen, policy.decide(seen, None))
        assert found.step_seconds(plan, 12, 1, True, True) == pytest.approx(token_latency(seen, plan, 12), rel=1e-12)


@pytest.mark.parametrize("impaired", ["loss", "jitter"])
def test_a_run_over_such_a_link_repeats_and_depends_on_its_seed(impaired: str, tmp_path: Path) -> None:
    def latencies(value: str, seed: int) -> list[float]:
        of = experiment(f"topology.devices.b.link.{impaired}={value}", "tokens=24", changes=(), seed=seed)
        summary, rows = simulated(tmp_path / f"{value} {seed}".replace("%", ""), of)
        assert any("delays are drawn" in note for note in summary["verdict"]["notes"])
        return [row["latency_s"] for row in rows["tokens"]]

    value = {"loss": "1 %", "jitter": "0.4 ms"}[impaired]
    assert latencies(value, 1) == latencies(value, 1) != latencies(value, 2)


def test_what_is_lost_makes_tokens_slower_and_the_prediction_does_not_know(tmp_path: Path) -> None:
    plain, _ = simulated(tmp_path / "plain", experiment("tokens=24", changes=()))
    lossy, _ = simulated(tmp_path / "lossy", experiment("tokens=24", "topology.devices.b.link.loss=2 %", changes=()))
    assert lossy["mean_token_ms"] > 1.05 * plain["mean_token_ms"]
    assert lossy["predicted_ms"] == plain["predicted_ms"]
