"""Asking a policy: whatever it does ends in one sentence, and what it returned is kept."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from placement_cases import quickstart

from testbed.cli import run
from testbed.clock import EmulatedClock
from testbed.controller.deciding import Decider
from testbed.controller.journal import Journal
from testbed.controller.losses import DeviceGone
from testbed.controller.policy_call import SHOWN_BLOCKS, PolicyMisbehaved, call_policy, reset_policy, show
from testbed.controller.recorder import Recorder
from testbed.controller.run_state import RunState
from testbed.errors import ConfigError
from testbed.experiment.schema import Experiment
from testbed.placement.blocks import Block, Placement
from testbed.placement.cost.memory import Infeasible
from testbed.placement.observation import Observation
from testbed.placement.plan import Plan
from testbed.placement.policies import make_policy
from testbed.runlog.folder import RunLog, read_lines, read_rows
from testbed.runlog.journal import read_past

ROOT = Path(__file__).parents[3]


class Own:
    """A policy that does what it is told."""

    name = "own"

    def __init__(self, behave: Callable[[], Any]) -> None:
        self.behave = behave

    def reset(self, seed: int) -> None:
        self.behave()

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        found = self.behave()
        return found  # type: ignore[no-any-return]


def misbehaviour(
    behave: Callable[[], Any], placement: Placement | None = None, limit_s: float = 5.0
) -> PolicyMisbehaved:
    with pytest.raises(PolicyMisbehaved) as caught:
        call_policy(Own(behave), quickstart(), placement, limit_s)
    assert caught.value.exit_code == 5 and "\n" not in str(caught.value)
    return caught.value


def placed() -> Placement:
    return make_policy("greedy", {}).decide(quickstart(), None)


def test_a_good_answer_comes_back_with_its_time_and_infeasible_with_its_reason() -> None:
    answer = call_policy(Own(placed), quickstart(), None, 5.0)
    assert answer.placement is not None and 0 < answer.decision_s < 5 and answer.reason == ""

    def refuse() -> None:
        raise Infeasible("own has no idea")

    assert call_policy(Own(refuse), quickstart(), placed(), 5.0).reason == "own has no idea"


def test_an_exception_is_named_with_its_kind() -> None:
    error = misbehaviour(lambda: {}["heads"])
    assert re.fullmatch(
        r"policy own raised KeyError at token 0 \(line \d+ of test_policy_call.py\): 'heads'", str(error)
    )
    assert error.returned is None
    with pytest.raises(PolicyMisbehaved, match="policy own raised ZeroDivisionError when it was reset"):
        reset_policy(Own(lambda: 1 / 0), 1, quickstart())
    with pytest.raises(PolicyMisbehaved, match="policy own raised SystemExit when it was reset"):
        reset_policy(Own(lambda: sys.exit(3)), 1, quickstart())


def test_a_message_of_several_lines_or_none_makes_one_sentence() -> None:
    def fail(error: Exception) -> None:
        raise error

    assert str(misbehaviour(lambda: fail(ValueError("one\n  two")))).endswith("test_policy_call.py): one two")
    assert str(misbehaviour(lambda: fail(AssertionError()))).endswith("test_policy_call.py)")

    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError

    assert "policy own raised Mute" in str(misbehaviour(lambda: fail(Mute())))


@pytest.mark.parametrize(("returned", "said"), [(None, "nothing"), ({"*": "a"}, "a dict"), (7, "an int")])
def test_what_is_no_placement_is_refused_by_its_type(returned: object, said: str) -> None:
    error = misbehaviour(lambda: returned)
    assert str(error) == f"policy own returned {said} at token 0, but it must return a Placement"
    assert error.returned == repr(returned)


def test_an_unknown_device_and_a_missing_block_are_named() -> None:
    error = misbehaviour(lambda: placed().with_moves([(Block("ffn", 3), "z")]))
    assert str(error).endswith("the placement puts ffn(3) on 'z', which is not among a, b, c, d")
    assert error.returned is not None and "ffn(3): 'z'" in error.returned
    assert "leaves out head(0,0)" in str(misbehaviour(lambda: Placement({Block("ffn", 3): "a"})))


def test_what_cannot_be_a_devices_name_or_a_block_is_named() -> None:
    error = misbehaviour(lambda: Placement({key: ["a"] for key in placed().devices}))  # type: ignore[misc]
    assert "the placement puts head(0,0) on ['a'], which is not among a, b, c, d" in str(error)
    error = misbehaviour(lambda: Placement(["a"]))  # type: ignore[arg-type]
    assert "returned a Placement of a list at token 0" in str(error)
    error = misbehaviour(lambda: Placement({**placed().devices, "ffn(0)": "a", Block("ffn", 99): "a"}))  # type: ignore[dict-item]
    assert "the placement has ffn(0), which is not a block of" in str(error)


def test_a_policy_that_writes_into_a_placement_writes_into_a_copy() -> None:
    first = next(iter(placed().devices))

    class Careless:
        name = "careless"
        kept: Placement

        def reset(self, seed: int) -> None:
            pass

        def decide(self, observation: Observation, placement: Placement | None) -> Placement:
            if placement is not None:
                placement.devices[first] = "d"  # type: ignore[index]
            self.kept = placement or placed()
            return self.kept

    policy, present = Careless(), placed()
    before = dict(present.devices)
    answer = call_policy(policy, quickstart(), present, 5.0)
    assert answer.placement is not None
    assert present.devices == before and answer.placement.devices[first] == "d" != before[first]
    policy.kept.devices[first] = "c"  # type: ignore[index]
    assert answer.placement.devices[first] == "d"


def test_a_move_that_does_not_fit_is_refused_with_its_device() -> None:
    error = misbehaviour(lambda: Placement(dict.fromkeys(placed().devices, "d"), 1), placed())
    assert "asked at token 0 for a placement that does not fit: device d needs" in str(error)


def test_a_policy_that_never_comes_back_is_left_behind_after_the_limit() -> None:
    started = time.monotonic()
    error = misbehaviour(lambda: time.sleep(30), limit_s=0.2)
    assert time.monotonic() - started < 5
    assert str(error).startswith("policy own took longer at token 0 than decision_limit, 0.2 s: ")
    assert error.returned is None


def test_what_is_shown_of_a_placement_is_bounded() -> None:
    many = Placement({Block("head", layer, 0): "a" for layer in range(SHOWN_BLOCKS + 5)})
    assert show(many).endswith(", and 5 more}") and show(many).startswith("{head(0,0): 'a', ")


# --- through the command line ----------------------------------------------------------------------------------------

POLICY = """
import time
from testbed.placement.blocks import Placement, blocks_of

class Own:
    name = "own"

    def __init__(self, what):
        self.what = what
        if what == "fail early":
            raise OSError("no such table")

    def reset(self, seed):
        pass

    def decide(self, observation, placement):
        if placement is None or self.what == "fine":
            return placement or Placement(dict.fromkeys(blocks_of(observation.shape, observation.partition), "a"))
        if self.what == "sleep":
            time.sleep(60)
        if self.what == "raise":
            raise LookupError("lost")
        return placement.with_moves([(next(iter(placement.devices)), "nowhere")])
"""


def replay(folder: Path, what: str, *options: str) -> int:
    (folder / "own.py").write_text(POLICY)
    experiment = {
        "model": {"preset": "tiny"},
        "prompt": "hello",
        "tokens": 6,
        "interval": 2,
        "topology": str(ROOT / "topologies" / "star4.yaml"),
        "policy": f"{folder / 'own.py'}:Own",
        "policy_options": {"what": what},
        "decision_limit": "500 ms",
    }
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(experiment))
    return run(["replay", str(path), "--backend", "sim", "--out", str(folder / "runs"), "--json", *options])


@pytest.mark.parametrize(
    ("what", "sentence", "returned"),
    [
        ("raise", "policy own raised LookupError at token 2 (line 22 of own.py): lost", None),
        ("unknown device", "policy own, at token 2: the placement puts head(0,0) on 'nowhere'", "head(0,0): 'nowhere'"),
        ("sleep", "policy own took longer at token 2 than decision_limit, 0.5 s", None),
    ],
)
def test_a_policy_file_that_misbehaves_ends_the_run_with_5_and_the_folder_says_what_it_returned(
    what: str, sentence: str, returned: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay(tmp_path, what) == 5
    summary = json.loads(capsys.readouterr().out)
    assert summary["status"] == "failed" and summary["error"].startswith(sentence)
    (event,) = [row for row in read_lines(Path(summary["path"]) / "events.jsonl") if row["kind"] == "policy_misbehaved"]
    assert event["step"] == 2 and event["reason"] == summary["error"]
    assert (returned is None) == (event.get("returned") is None)
    assert returned is None or returned in event["returned"]
    last = read_rows(Path(summary["path"]), "decisions")[-1]
    assert not last["feasible"] and last["reason"] == summary["error"] and last["step"] == 2


def test_what_can_be_seen_before_the_run_ends_with_2_and_leaves_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay(tmp_path, "fail early") == 2
    assert "OSError: no such table" in capsys.readouterr().err
    assert replay(tmp_path, "fine", "--set", "decision_limit=soon") == 2
    said = capsys.readouterr().err
    assert "decision_limit" in said and "soon" in said
    assert not (tmp_path / "runs").exists()


def test_the_limit_is_a_duration_and_survives_a_manifest(tmp_path: Path) -> None:
    assert replay(tmp_path, "fine", "--dry-run") == 0
    experiment = Experiment.load(tmp_path / "own.yaml")
    assert experiment.decision_limit == 0.5
    assert Experiment.from_dict(experiment.to_dict()).decision_limit == 0.5
    with pytest.raises(ConfigError, match="decision_limit is 0"):
        Experiment.load(tmp_path / "own.yaml", ["decision_limit=0"])


def test_what_happens_meanwhile_is_heard_and_a_loss_drops_the_decision() -> None:
    looks, lost = [], threading.Event()

    def meanwhile() -> None:
        looks.append(time.monotonic())
        if len(looks) == 2:
            lost.set()
            raise DeviceGone("b", "device b is lost")

    def decide() -> None:
        lost.wait()
        time.sleep(0.25)

    with pytest.raises(DeviceGone, match="device b is lost"):
        call_policy(Own(decide), quickstart(), None, 60.0, meanwhile)
    assert len(looks) == 2, "nobody looks on after a loss"


def test_a_call_whose_decision_a_loss_made_vain_stands_in_the_journal(tmp_path: Path) -> None:
    """The policy may remember it, so it must be reminded of it when the run is resumed."""
    experiment, clock = Experiment.load(ROOT / "experiments" / "quickstart.yaml"), EmulatedClock()
    log = RunLog.create(tmp_path, "quickstart", "own")
    log.journaled = True
    state, asked = RunState(), threading.Event()
    journal = Journal(log, clock, state)

    def lose() -> None:
        asked.set()
        raise DeviceGone("b", "device b is lost")

    decider = Decider(Own(asked.wait), experiment, clock, state, Recorder(log, clock, 1), log, journal, lose)
    with pytest.raises(DeviceGone):
        decider.ask(quickstart(), placed())
    state.placement, state.plan = placed(), Plan(0, "a", ())
    journal.checkpoint()
    (call,) = read_past(log.folder).asked
    assert call.given is not None
