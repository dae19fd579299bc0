"""Policies: complete and feasible placements or Infeasible, whatever the budgets do; and good ones."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from placement_cases import MIB, networked, observations, quickstart

from testbed.errors import ConfigError
from testbed.placement.blocks import Block, Placement, blocks_of, pinned_bytes, resident_bytes
from testbed.placement.cost.memory import Infeasible, check_complete, device_needs, nothing_fits, shortages
from testbed.placement.cost.model import cached_length, cost_model, interval_cost, migration_delay, token_latency
from testbed.placement.local.draft import Draft
from testbed.placement.observation import Observation
from testbed.placement.policies import POLICIES, make_policy
from testbed.placement.policies.paper import default_deadline

NAMES = ["dynamic-threshold", "greedy", "paper-search", "round-robin", "static"]  # any block may go anywhere
MOVING = [name for name in POLICIES if name not in ("static", "exact", "headroom")]
NETWORKS = networked().map(lambda case: case[0])


@settings(max_examples=120, deadline=None)
@given(observations(tightness=st.floats(0.5, 2.5)) | NETWORKS, st.sampled_from(NAMES))
def test_a_first_placement_is_complete_and_fits_exactly_when_one_exists(observation: Observation, name: str) -> None:
    policy = make_policy(name, {})
    policy.reset(1)
    try:
        placement = policy.decide(observation, None)
    except Infeasible as error:
        assert nothing_fits(observation), str(error)
        assert error.shortage is not None and error.shortage.device in {view.name for view in observation.devices}
        return
    check_complete(observation, placement)
    assert shortages(observation, None, placement) == []


@settings(max_examples=120, deadline=None)
@given(observations(tightness=st.floats(0.8, 3)) | NETWORKS, st.sampled_from(MOVING), st.data())
def test_decisions_stay_feasible_and_repeatable_while_budgets_and_rates_change(
    observation: Observation, name: str, data: st.DataObject
) -> None:
    policy, twin = make_policy(name, {}), make_policy(name, {})
    policy.reset(5)
    twin.reset(5)
    placement: Placement | None = None
    for done in range(0, observation.tokens_max, observation.interval):
        scale = st.floats(0.5, 1.5) if done else st.just(1.0)
        views = tuple(
            replace(
                view,
                available_bytes=int(view.available_bytes * data.draw(scale)),
                streaming_Bps=view.streaming_Bps * data.draw(scale),
            )
            for view in observation.devices
        )
        links = {link: replace(view, up_bps=view.up_bps * data.draw(scale)) for link, view in observation.links.items()}
        now = replace(observation, tokens_done=done, devices=views, links=links)
        before = placement
        try:
            placement = policy.decide(now, before)
        except Infeasible as error:
            with pytest.raises(Infeasible):
                twin.decide(now, before)
            if before is None and name in NAMES:
                assert nothing_fits(now), str(error)
            elif before is None:
                assert str(error).startswith(f"{name} ")
            return
        check_complete(now, placement)
        assert shortages(now, before, placement) == []
        again = twin.decide(now, before)
        assert again.devices == placement.devices
        if before is not None:
            moved = bool(before.moves_to(placement))
            assert (placement is before) == (not moved)
            assert placement.epoch == before.epoch + moved


@settings(max_examples=60, deadline=None)
@given(
    observations(tightness=st.floats(1.2, 3)) | NETWORKS,
    st.sampled_from(["greedy", "paper-search"]),
    st.floats(1e-4, 1),
)
def test_moves_that_are_not_forced_pay_for_themselves(observation: Observation, name: str, slower: float) -> None:
    policy = make_policy(name, {})
    try:
        first = policy.decide(observation, None)
    except Infeasible:
        return
    links = {device: replace(link, up_bps=link.up_bps * slower) for device, link in observation.links.items()}
    later = replace(observation, tokens_done=8, links=links)
    if shortages(later, first, first):
        return
    second = policy.decide(later, first)
    assert interval_cost(later, first, second) <= interval_cost(later, first, first) + 1e-9


@pytest.mark.parametrize("name", [name for name in POLICIES if name not in ("single", "headroom", "exact")])
def test_on_the_quickstart_each_policy_decides_in_time_and_stays_put_while_nothing_changes(name: str) -> None:
    policy = make_policy(name, {})
    policy.decide(quickstart(), None)  # loads what it needs
    policy.reset(1)
    placement: Placement | None = None
    seconds = []
    for done in range(0, 96, 8):
        observation = quickstart(tokens_done=done)
        start = time.process_time()
        wanted = policy.decide(observation, placement)
        seconds.append(time.process_time() - start)
        assert shortages(observation, placement, wanted) == []
        assert placement is None or wanted is placement
        placement = wanted
    # static asks all the others, once; the median, because any one of them may meet the interpreter's own work
    assert seconds[0] < 5 and sorted(seconds)[len(seconds) // 2] < 0.5


def test_paper_search_beats_the_simple_policies_on_the_quickstart() -> None:
    observation = quickstart()
    latency = {
        name: token_latency(observation, make_policy(name, {}).decide(observation, None), observation.length)
        for name in NAMES
    }
    assert latency["paper-search"] <= latency["greedy"] < latency["round-robin"]
    assert latency["static"] <= latency["greedy"] * 1.001


def test_paper_search_evacuates_a_squeezed_device_within_double_residency_and_not_more_than_it_must() -> None:
    policy = make_policy("paper-search", {})
    first = policy.decide(quickstart(), None)
    squeezed = quickstart(tokens_done=48, b_mib=72)
    assert shortages(squeezed, first, first)
    start = time.process_time()
    second = policy.decide(squeezed, first)
    assert time.process_time() - start < 0.5
    assert shortages(squeezed, first, second) == []
    moved = sum(resident_bytes(squeezed.shape, block, squeezed.length) for block, _, _ in first.moves_to(second))
    assert moved < 1.3 * (176 - 72) * MIB
    assert migration_delay(squeezed, first, second, cached_length(squeezed)) < 1.0
    assert all(source == "b" for block, source, _ in first.moves_to(second) if block.kind == "ffn")


def test_paper_search_takes_off_a_collapsed_link_what_pays_within_the_interval() -> None:
    policy = make_policy("paper-search", {})
    first = policy.decide(quickstart(), None)
    collapsed = quickstart(tokens_done=32, b_rate_bps=1e6)  # one head's cache takes a quarter of a second to leave
    second = policy.decide(collapsed, first)
    assert interval_cost(collapsed, first, second) < interval_cost(collapsed, first, first)
    patient = replace(collapsed, interval=64)
    third = policy.decide(patient, first)
    assert len(first.moves_to(third)) > len(first.moves_to(second))
    assert interval_cost(patient, first, third) < 0.8 * interval_cost(patient, first, first)


def test_a_repair_that_double_residency_forbids_is_refused_with_that_reason() -> None:
    observation = quickstart(tokens_done=8)
    placement = make_policy("greedy", {}).decide(quickstart(), None)
    needs = Draft(cost_model(observation), placement, placement).end_bytes
    views = tuple(
        replace(view, available_bytes=need - (10 * MIB if view.name == "b" else 0))
        for view, need in zip(observation.devices, needs, strict=True)
    )
    for name in set(MOVING) & set(NAMES):
        with pytest.raises(Infeasible, match=r"device b needs .* and has .*until commit every receiving device"):
            make_policy(name, {}).decide(replace(observation, devices=views), placement)


def test_round_robin_deals_in_turn() -> None:
    observation = quickstart()
    views = tuple(replace(view, available_bytes=2**30) for view in observation.devices)
    placement = make_policy("round-robin", {}).decide(replace(observation, devices=views), None)
    assert [placement.devices[block] for block in blocks_of(observation.shape)][:9] == list("abcdabcda")


def test_static_never_moves_even_when_its_placement_no_longer_fits() -> None:
    policy = make_policy("static", {})
    first = policy.decide(quickstart(), None)
    assert policy.decide(quickstart(tokens_done=48, b_mib=72), first) is first


@pytest.mark.parametrize("reserve", [0.0, 0.1, 0.2])
def test_static_keeps_its_reserve_of_each_devices_memory_free(reserve: float) -> None:
    observation = quickstart()
    placement = make_policy("static", {"reserve": reserve}).decide(observation, None)
    kept = pinned_bytes(observation.shape, observation.partition)
    for name, need in device_needs(observation, placement, observation.final_length).items():
        pinned = kept if name == observation.source else 0
        assert need - pinned <= (1 - reserve) * (observation.device(name).available_bytes - pinned)


def test_a_reserve_is_a_share_and_goes_with_no_fixed_placement() -> None:
    for wrong in (1, -0.1, True, "much"):
        with pytest.raises(ConfigError, match="policy static: reserve is .*, but it must be a share"):
            make_policy("static", {"reserve": wrong})
    with pytest.raises(ConfigError, match=r"policy static: reserve is 0.1, but `placement` says where blocks go"):
        make_policy("static", {"reserve": 0.1}, {"*": "a"})
    with pytest.raises(Infeasible):
        make_policy("static", {"reserve": 0.9}).decide(quickstart(), None)


def test_a_fixed_placement_takes_patterns_and_the_last_one_wins() -> None:
    patterns = {"*": "b", "head(0,*)": "a", "head(*, 3)": "c", "ffn(*)": "d", "ffn(2)": "a"}
    placement = make_policy("static", {}, patterns).decide(quickstart(), None)
    where = placement.devices
    assert where[Block("proj", 5)] == "b"
    assert (where[Block("head", 0, 1)], where[Block("head", 0, 3)]) == ("a", "c")
    assert (where[Block("ffn", 1)], where[Block("ffn", 2)]) == ("d", "a")


@pytest.mark.parametrize(
    ("patterns", "complaint"),
    [
        ({"heads": "a"}, r"'heads' is not a block pattern"),
        ({"*": "z"}, r"the device 'z': known are a, b, c, d"),
        ({"head(*,*)": "a", "ffn(*)": "a"}, r"leaves out proj\(0\)"),
        ({"*": "a", "ffn(12)": "b"}, r"'ffn\(12\)' matches no block of gpt2, which has 12 layers"),
    ],
)
def test_a_wrong_fixed_placement_is_refused_by_its_pattern(patterns: dict[str, str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        make_policy("static", {}, patterns).decide(quickstart(), None)


def test_an_unknown_policy_or_option_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no policy 'paper_search': did you mean 'paper-search'\? known are"):
        make_policy("paper_search", {})
    with pytest.raises(ConfigError, match="paper-search has no option 'dedline': it knows deadline, refine_first"):
        make_policy("paper-search", {"dedline": "1 s"})
    with pytest.raises(ConfigError, match="greedy has no option 'deadline': it takes none"):
        make_policy("greedy", {"deadline": "1 s"})
    with pytest.raises(ConfigError, match="greedy chooses its own placement"):
        make_policy("greedy", {}, {"*": "a"})
    with pytest.raises(ConfigError, match="'fast' is not a duration"):
        make_policy("paper-search", {"deadline": "fast"})


@pytest.mark.parametrize("deadline", ["1 ms", "500 ms", 20])
def test_any_deadline_gives_a_feasible_placement(deadline: object) -> None:
    for refine in (False, True):
        policy = make_policy("paper-search", {"deadline": deadline, "refine_first": refine})
        placement = policy.decide(quickstart(), None)
        assert shortages(quickstart(), None, placement) == []


def test_the_default_deadline_is_of_the_order_of_a_token() -> None:
    assert 0.1 < default_deadline(cost_model(quickstart())) < 1


OWN = """
from __future__ import annotations
import sys
from dataclasses import dataclass
{top}
@dataclass
class Own:
    share: float = 0.5
    {name}

    def reset(self, seed):
        pass

    def decide(self, observation, placement):
        pass
"""


def test_a_users_policy_may_be_a_dataclass_with_postponed_annotations(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN.format(top="", name="name = 'own'"))
    assert make_policy(f"{file}:Own", {"share": 0.25}).share == 0.25  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("top", "name", "message"),
    [
        ("", "name = None", "has no `name`"),
        ("", "", "has no `name`"),
        ("sys.exit(7)", "name = 'own'", "cannot be loaded: SystemExit: 7"),
        ("raise ValueError('one\\ntwo')", "name = 'own'", "cannot be loaded: ValueError: one two$"),
        ("", "name = 'own'; __post_init__ = lambda self: sys.exit(7)", r"cannot be made from .*: SystemExit: 7"),
    ],
)
def test_a_users_file_that_cannot_be_used_is_refused_in_one_sentence(
    top: str, name: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN.format(top=top, name=name))
    with pytest.raises(ConfigError, match=message):
        make_policy(f"{file}:Own", {})


@pytest.mark.parametrize(
    ("policy", "key"), [("exact", "limit"), ("paper-search", "deadline"), ("dynamic-threshold", "deadline")]
)
def test_a_duration_among_the_options_may_be_seconds_and_a_wrong_one_is_named(policy: str, key: str) -> None:
    make_policy(policy, {key: 0.5})
    make_policy(policy, {key: "500 ms"})
    for wrong in ("soon", -1, True, [1]):
        with pytest.raises(ConfigError, match=f"^policy {policy}: {key}: .* is not a duration"):
            make_policy(policy, {key: wrong})


def test_a_users_policy_is_loaded_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from testbed.placement.blocks import Placement, blocks_of\n"
        "class Mine:\n"
        "    name = 'mine'\n"
        "    def __init__(self, device='a'):\n        self.device = device\n"
        "    def reset(self, seed):\n        pass\n"
        "    def decide(self, observation, placement):\n"
        "        return Placement(dict.fromkeys(blocks_of(observation.shape), self.device))\n"
    )
    placement = make_policy(f"{file}:Mine", {"device": "c"}).decide(quickstart(), None)
    assert set(placement.devices.values()) == {"c"}
    with pytest.raises(ConfigError, match="has no class 'Yours'"):
        make_policy(f"{file}:Yours", {})
    with pytest.raises(ConfigError, match="does not exist"):
        make_policy(f"{tmp_path}/none.py:Mine", {})
