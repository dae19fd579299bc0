"""Wherever the journal of a run with losses and returns ends, the run that goes on is the undisturbed one.

The twin keeps no journal of its own accord, because it is quickly repeated. Here it does, and takes up the tokens.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from simulated import experiment

from testbed.controller.calibration import NOMINAL
from testbed.controller.generation import Controller
from testbed.experiment.prompt import prompt_ids
from testbed.experiment.schema import Experiment
from testbed.placement.blocks import Placement
from testbed.placement.cost.memory import Infeasible
from testbed.placement.observation import Observation, Policy
from testbed.placement.patterns import expand_patterns
from testbed.placement.policies import make_policy
from testbed.runlog.folder import RunLog, read_rows
from testbed.runlog.journal import JOURNAL, Past, read_past
from testbed.runlog.rewinding import rewind
from testbed.simulation.fleet import SimFleet
from testbed.traces import Change
from testbed.transport.messages import Command, Continue

KEYS = {
    "faults": ("device", "step"),
    "decisions": ("epoch", "step", "moved"),
    "recoveries": ("epoch", "step", "devices"),
    "placements": ("epoch", "step", "block", "device"),
    "estimates": ("target", "quantity"),
    "tokens": ("step", "epoch"),
}


class Continued(SimFleet):
    """A simulated fleet whose source can be told of tokens."""

    def send(self, device: str, command: Command) -> None:
        if isinstance(command, Continue):
            self._tokens, self._length = command.tokens, command.prompt_tokens + command.tokens - 1
        else:
            super().send(device, command)


def carry_out(
    of: Experiment, log: RunLog, past: Past | None = None, policy: Policy | None = None
) -> tuple[Controller, dict[str, list[tuple[Any, ...]]]]:
    """The run's controller, and the tables that tell what happened."""
    log.journaled, prompt = True, prompt_ids(of)
    if past is not None:
        rewind(log, past)
    fleet = Continued(of, len(prompt), NOMINAL.hop_overhead_s)
    policy = policy or make_policy(of.policy, of.policy_options, of.placement)
    controller = Controller(of, prompt, fleet, policy, log, effort="off", past=past)
    controller.run()
    log.close()
    found = {
        table: [tuple(row[key] for key in keys) for row in read_rows(log.folder, table)] for table, keys in KEYS.items()
    }
    return controller, found


class OnB:
    """All blocks on b as long as so many tokens are done, and nothing else ever."""

    name = "on-b"

    def __init__(self, until: int = 0) -> None:
        self.until = until

    def reset(self, seed: int) -> None:
        pass

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        if observation.tokens_done > self.until:
            raise Infeasible("b it is")
        return Placement(expand_patterns(observation, {"*": "b"}))


def struck(*strikes: tuple[float, str, str]) -> Experiment:
    """Ten tokens of the tiny model, with devices that die and return at these."""
    changes = tuple(Change(at, f"device/{name}", what, 1.0) for at, name, what in strikes)
    plain = {"policy": "round-robin", "policy_options": {}, "placement": None, "dilation": 1.0}
    return experiment("model.preset=tiny", changes=changes, tokens=10, interval=4, observation="measured", **plain)


def test_a_loss_that_cannot_be_survived_ends_the_run_that_goes_on_as_well(tmp_path: Path) -> None:
    of, log = struck((5, "b", "kill")), RunLog.create(tmp_path, "resumed", "on-b")
    first, undisturbed = carry_out(of, log, policy=OnB())
    again, found = carry_out(of, RunLog(log.folder), read_past(log.folder), OnB())
    assert str(first.outcome.error) == str(again.outcome.error) == "the loss of b cannot be survived: b it is"
    assert first.outcome.tokens == again.outcome.tokens == [None] * 5 and found["tokens"] == undisturbed["tokens"]
    (log.folder / JOURNAL).unlink()  # as if it had died before it began
    never, _ = carry_out(of, RunLog(log.folder), read_past(log.folder), OnB(-1))
    assert "no first placement" in str(never.outcome.error)
    assert again.begun and never.begun, "so the run does not stay as it was found"


def test_wherever_the_journal_ends_and_again_two_lines_later_nothing_is_missing_and_nothing_twice(
    tmp_path: Path,
) -> None:
    of = struck((3, "d", "restart"), (5, "b", "kill"), (5, "b", "restart"), (6, "d", "kill"))
    log = RunLog.create(tmp_path, "resumed", "round-robin")
    _, undisturbed = carry_out(of, log)
    assert [row[0] for row in undisturbed["faults"]] == ["b", "d"]
    lines = (log.folder / JOURNAL).read_bytes().splitlines(keepends=True)
    for number in (number for number in range(len(lines)) if b'"token"' not in lines[number - 1][:20]):
        died = Path(shutil.copytree(log.folder, tmp_path / str(number)))
        (died / JOURNAL).write_bytes(b"".join(lines[:number]))
        assert carry_out(of, RunLog(died), read_past(died))[1] == undisturbed, lines[number]
        written = (died / JOURNAL).read_bytes().splitlines(keepends=True)
        (died / JOURNAL).write_bytes(b"".join(written[: number + 2]))
        assert carry_out(of, RunLog(died), read_past(died))[1] == undisturbed, written[number : number + 2]
