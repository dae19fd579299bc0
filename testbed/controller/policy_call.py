"""Calls a policy: within a time limit, and with every answer checked before anything is done about it.

A policy may be a user's own. It may raise, return something else, name an unknown device or never return. Each of
these ends the run with one sentence, and the run folder says what the policy returned.
"""

from __future__ import annotations

import inspect
import math
import reprlib
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from testbed.controller.losses import DeviceGone
from testbed.errors import RunFailed, TestbedError
from testbed.placement.blocks import Placement
from testbed.placement.cost.memory import Infeasible, check_complete, shortages
from testbed.placement.local.improve import warm_up
from testbed.placement.observation import Observation, Policy, Proof

LOOK_S = 0.1  # wall seconds between two looks at what happens while a policy decides
SHOWN_BLOCKS = 400  # entries of a refused placement that the run folder keeps


class PolicyMisbehaved(RunFailed):
    """A policy raised, took too long, or returned what no run can carry out; `returned` is what it gave back."""

    def __init__(self, message: str, returned: str | None, decision_s: float) -> None:
        super().__init__(message)
        self.returned = returned
        self.decision_s = decision_s


@dataclass(frozen=True)
class Decision:
    """What a policy decided: a placement, or None and the reason why there is none."""

    placement: Placement | None
    decision_s: float
    reason: str = ""
    proof: Proof | None = None  # from a policy that proves bounds


def call_policy(
    policy: Policy,
    observation: Observation,
    placement: Placement | None,
    limit_s: float,
    meanwhile: Callable[[], None] = lambda: None,
) -> Decision:
    """The policy's decision, checked: it is complete, on known devices, and what moves fits.

    `meanwhile` is called again and again while the policy decides. If it raises DeviceGone, that is raised once the
    policy has returned, since it must not be asked again before; its decision is dropped.

    The call runs in a thread of its own, so `limit_s` (seconds of the host) also holds for code that never returns.
    Such a thread is left behind and ends with the process. The policy gets a copy of the placement and its answer is
    copied, so what it does to either afterwards changes nothing here. Raises PolicyMisbehaved.
    """
    who, when = f"policy {policy.name}", f"at token {observation.tokens_done}"
    given = placement and _copy(placement)
    returned, raised, seconds = _within(limit_s, lambda: policy.decide(observation, given), meanwhile)
    if seconds > limit_s:
        text = f"{who} took longer {when} than decision_limit, {limit_s:g} s: make it quicker, or raise the limit"
        raise PolicyMisbehaved(text, None if returned is _NOTHING else show(returned), seconds)
    if isinstance(raised, Infeasible):
        return Decision(None, seconds, str(raised))
    if isinstance(raised, TestbedError):
        raise raised
    if raised is not None:
        raise PolicyMisbehaved(f"{who} raised {_said(raised, when, policy)}", None, seconds) from raised
    if not isinstance(returned, Placement):
        text = f"{who} returned {_article(returned)} {when}, but it must return a Placement"
        raise PolicyMisbehaved(text, show(returned), seconds)
    devices: object = returned.devices  # a user's policy is not checked for types
    if not isinstance(devices, Mapping):
        what = f"a Placement of {_article(devices)}"
        text = f"{who} returned {what} {when}, but it must map every block to a device's name"
        raise PolicyMisbehaved(text, show(returned), seconds)
    returned = _copy(returned)
    try:
        check_complete(observation, returned)
    except RunFailed as error:
        raise PolicyMisbehaved(f"{who}, {when}: {error}", show(returned), seconds) from error
    if placement is not None and placement.moves_to(returned):
        found = shortages(observation, placement, returned)
        if found:
            text = f"{who} asked {when} for a placement that does not fit: {found[0]}"
            raise PolicyMisbehaved(text, show(returned), seconds)
    proof = getattr(policy, "last", None)
    return Decision(returned, seconds, proof=proof if isinstance(proof, Proof) else None)


def reset_policy(policy: Policy, seed: int, observation: Observation) -> None:
    """Reset the policy for a new run that begins with this observation; raises PolicyMisbehaved.

    What the policy needs compiled is loaded here, so that its first decision does not wait for it.
    """
    try:
        policy.reset(seed)
        if getattr(policy, "improves_drafts", False):
            warm_up(observation)
    except TestbedError:
        raise
    except (Exception, SystemExit) as error:
        text = f"policy {policy.name} raised {_said(error, 'when it was reset', policy)}"
        raise PolicyMisbehaved(text, None, 0.0) from error


def show(returned: object) -> str:
    """What a policy returned, short enough for the log: a placement as `block: device`, anything else as its repr."""
    if not isinstance(returned, Placement) or not isinstance(returned.devices, dict):
        return reprlib.repr(returned)
    pairs = [f"{block}: {device!r}" for block, device in list(returned.devices.items())[:SHOWN_BLOCKS]]
    left = len(returned.devices) - len(pairs)
    return "{" + ", ".join(pairs) + (f", and {left} more" if left > 0 else "") + "}"


_NOTHING = object()


def _within(
    limit_s: float, call: Callable[[], object], meanwhile: Callable[[], None]
) -> tuple[object, BaseException | None, float]:
    """(what the call returned, what it raised, seconds). Returns when the limit has passed, even in mid-call."""
    returned: list[object] = []
    raised: list[BaseException] = []
    ended: list[float] = []

    def run() -> None:
        try:
            returned.append(call())
        except BaseException as error:
            raised.append(error)
        ended.append(time.monotonic())

    thread = threading.Thread(target=run, name="policy", daemon=True)
    started = time.monotonic()
    thread.start()
    gone: DeviceGone | None = None
    while True:
        thread.join(min(LOOK_S, max(0.0, started + limit_s - time.monotonic())))
        if not thread.is_alive() or time.monotonic() >= started + limit_s:
            break
        try:
            if gone is None:
                meanwhile()
        except DeviceGone as error:
            gone = error
    if not ended:
        return _NOTHING, None, max(time.monotonic() - started, math.nextafter(limit_s, math.inf))
    if gone is not None:
        raise gone
    return (returned[0] if returned else _NOTHING), (raised[0] if raised else None), ended[0] - started


def _copy(placement: Placement) -> Placement:
    return replace(placement, devices=dict(placement.devices))


def _said(error: BaseException, when: str, policy: Policy) -> str:
    """What a policy raised, on one line: the exception's type, the line in the policy's file, and its message."""
    try:
        file = inspect.getfile(type(policy))
    except (TypeError, OSError):
        file = ""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    where = f" (line {lines[-1]} of {Path(file).name})" if lines else ""
    try:
        words = " ".join(str(error).split())
    except Exception:
        words = "which cannot say more, because its __str__ raises too"
    return f"{type(error).__name__} {when}{where}" + (f": {words}" if words else "")


def _article(returned: object) -> str:
    name = type(returned).__name__
    return "nothing" if returned is None else f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
