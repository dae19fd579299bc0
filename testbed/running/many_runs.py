"""Many runs: emulated ones one after another, simulated ones side by side on every core.

An emulated run has the machine to itself and a process of its own. Simulated runs share worker processes, so that the
imports are paid for once and not by every run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from typing import Any

from testbed.errors import RunFailed
from testbed.experiment.schema import Experiment
from testbed.placement.policies import POLICIES, make_policy
from testbed.running.backends import find_backend
from testbed.running.carry_out import carry_out
from testbed.running.remarks import Tell, tell_nobody
from testbed.running.request import RunRequest
from testbed.running.worker_pool import ATTEMPTS, WorkersDied, call_in_pool

Done = Callable[[int, dict[str, Any]], None]  # is called with the number of the request and its summary


def carry_out_all(requests: Sequence[RunRequest], tell: Tell, done: Done, announce: bool) -> list[dict[str, Any]]:
    """Carry out every run and return the summaries in the order of the requests.

    `done` is called as each run ends. With `announce`, `tell` hears of each emulated run before it starts.
    """
    virtual = [number for number, request in enumerate(requests) if not find_backend(request.backend).emulated]
    summaries: dict[int, dict[str, Any]] = {}
    if min(len(virtual), os.cpu_count() or 1) > 1:
        compile_policies(requests[number].experiment for number in virtual)
        calls = [(requests[number], tell_nobody) for number in virtual]
        try:
            with closing(call_in_pool(carry_out, calls)) as ended:
                for place, summary in ended:
                    summaries[virtual[place]] = summary
                    done(virtual[place], summary)
        except WorkersDied as error:
            one = requests[virtual[error.args[0]]].experiment
            raise RunFailed(
                f"{ATTEMPTS} processes were killed while they simulated {one.policy}, seed {one.seed}; start again"
            ) from error
    in_turn = [number for number in range(len(requests)) if number not in summaries]
    started = time.monotonic()
    for place, number in enumerate(in_turn):
        request = requests[number]
        if announce and find_backend(request.backend).emulated:
            one = request.experiment
            left = _left(place, len(in_turn), time.monotonic() - started)
            tell(f"[{number + 1}/{len(requests)}] {one.policy}, seed {one.seed}, on {request.backend}{left} …")
        summaries[number] = carry_out(request, tell)
        done(number, summaries[number])
    return [summaries[number] for number in range(len(requests))]


def _left(done: int, total: int, seconds: float) -> str:
    """Return about how long the rest takes, if it goes on as so far; nothing before the first run has ended."""
    if not done:
        return ""
    minutes, rest = divmod(round(seconds / done * (total - done)), 60)
    return f", about {minutes} min left" if minutes else f", about {rest} s left"


def compile_policies(experiments: Iterable[Experiment]) -> None:
    """Let each known policy compile its search once, here; otherwise every worker would do so at the same time."""
    for one in experiments:
        if one.policy in POLICIES:
            make_policy(one.policy, one.policy_options, one.placement).reset(one.seed)
