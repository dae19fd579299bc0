"""What a trace kills and starts anew: each at its token, and what nobody had noticed comes again after a resume."""

from __future__ import annotations

from testbed.controller.strikes import Strikes
from testbed.traces import Change, Trace
from testbed.traces.model import TraceSet


def strikes(*rows: tuple[float, str, str]) -> Strikes:
    changes = tuple(Change(at, f"device/{device}", quantity, 1.0) for at, device, quantity in rows)
    return Strikes(TraceSet((Trace(changes),)), 40)


def test_each_strike_comes_once_at_its_token() -> None:
    due = strikes((8, "b", "kill"), (12, "c", "kill"))
    assert due.before(16) == 8 and due.take(7) == []
    assert due.take(8) == [("b", "kill")]
    assert due.before(16) == 12 and due.take(16) == [("c", "kill")]
    assert due.before(40) == 40


def test_in_a_resumed_run_an_unnoticed_kill_comes_again_and_one_at_the_present_token_is_still_to_come() -> None:
    due = strikes((6, "b", "kill"), (8, "c", "restart"), (10, "d", "kill"), (20, "b", "kill"))
    due.resume(10, {"b"})
    assert due.take(10) == [("b", "kill"), ("d", "kill")]
    assert due.before(40) == 20
