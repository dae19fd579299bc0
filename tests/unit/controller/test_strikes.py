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


def test_a_kill_that_was_not_noticed_before_the_controller_died_comes_again() -> None:
    due = strikes((8, "b", "kill"), (9, "c", "kill"), (20, "d", "kill"))
    assert due.resume(10, {"c"}) == []
    assert due.take(10) == [("b", "kill")]
    assert due.before(40) == 20


def test_a_lost_device_that_was_to_return_returns_and_a_kill_at_the_present_token_is_still_to_come() -> None:
    due = strikes((6, "b", "kill"), (8, "b", "restart"), (10, "c", "kill"))
    assert due.resume(10, {"b"}) == ["b"]
    assert due.take(10) == [("c", "kill")]
