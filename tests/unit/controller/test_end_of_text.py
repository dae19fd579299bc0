"""The controller stops where the model ends its text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from simulated import Watched, experiment

from testbed.controller.generation import Controller
from testbed.experiment.prompt import prompt_ids
from testbed.placement.policies import make_policy
from testbed.runlog.folder import RunLog, read_rows
from testbed.transport.messages import Decode, Prefill, Token

END = 2


class Talking(Watched):
    """A fleet whose tokens have ids, of which one ends the text; like a worker, it goes no further than that."""

    def __init__(self, ends_at: int) -> None:
        super().__init__(experiment(tokens=24))
        self.ends_at = ends_at
        self.sent: list[Any] = []

    def send(self, device: str, command: Any) -> None:
        if isinstance(command, Prefill | Decode):
            self.sent.append(command)
        super().send(device, command)

    def events(self, timeout_s: float) -> Any:
        found = []
        for device, event in super().events(timeout_s):
            if isinstance(event, Token):
                assert event.step <= self.ends_at, "the worker has stopped"
                token = END if event.step == self.ends_at else 7 + event.step
                event = msgspec.structs.replace(event, token_id=token)
                if token == END and END in self.sent[0].ends:
                    self._generation = None
            found.append((device, event))
        return found


@pytest.mark.parametrize("ends_at", [0, 3, 7, 8, 22, 23])
def test_a_token_that_ends_the_text_is_the_last_one_wherever_in_an_interval_it_comes(
    tmp_path: Path, ends_at: int
) -> None:
    fleet = Talking(ends_at)
    of, told = fleet.experiment, []
    log = RunLog.create(tmp_path, of.name, of.policy)
    policy = make_policy(of.policy, of.policy_options, of.placement)
    controller = Controller(
        of, prompt_ids(of), fleet, policy, log, lambda done, token: told.append((done, token)), "off", ends=[1, END]
    )  # fmt: skip
    outcome = controller.run()
    log.close()
    assert outcome.status == "done"
    assert outcome.tokens == [7 + step for step in range(ends_at)] + [END]
    assert told == list(enumerate(outcome.tokens, 1))
    assert len(read_rows(log.folder, "tokens")) == ends_at + 1
    assert (fleet.sent[0].ends, fleet.sent[0].sampling) == ((1, END), None)
    assert len(fleet.sent) == ends_at // of.interval + 1  # no interval after the end is begun


def test_a_run_that_asks_for_draws_says_so_to_the_source(tmp_path: Path) -> None:
    fleet = Talking(99)
    of = experiment(tokens=2, seed=5, sampling={"temperature": 0.5, "top_k": 3})
    log = RunLog.create(tmp_path, of.name, of.policy)
    Controller(of, prompt_ids(of), fleet, make_policy(of.policy, {}), log, effort="off").run()
    log.close()
    drawn = fleet.sent[0].sampling
    assert (drawn.seed, drawn.temperature, drawn.top_k, drawn.top_p) == (5, 0.5, 3, 1.0)
