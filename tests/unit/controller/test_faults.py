"""What becomes of devices: late words are counted, and a new worker is offered once all know it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_stars import three_devices

from testbed.clock import EmulatedClock
from testbed.controller.device_state import DeviceState
from testbed.controller.faults import Faults
from testbed.controller.fleet import DeviceLost
from testbed.controller.losses import DeviceGone
from testbed.controller.recorder import Recorder
from testbed.controller.run_state import RunState
from testbed.errors import EnvironmentLacks, OutOfMemory, RunFailed
from testbed.runlog.folder import RunLog, read_lines, read_rows
from testbed.runlog.journal import Lost, read_past
from testbed.transport.messages import Committed, Connected, Hello, Load, Loaded, Token

ENDED = DeviceLost(False, -9)


class Workers:
    """A fleet that notes what is asked of it."""

    beating = False

    def __init__(self) -> None:
        self.clock, self.asked = EmulatedClock(), list[Any]()
        self.up = set("abc")

    def kill(self, device: str) -> None:
        self.asked.append(("kill", device))
        self.up.discard(device)

    def restart(self, device: str) -> None:
        self.asked.append(("restart", device))
        self.up.add(device)

    def introduce(self, device: str) -> list[str]:
        self.asked.append(("introduce", device))
        return sorted(self.up)

    def send(self, device: str, command: Any) -> None:
        if device not in self.up:
            raise RunFailed(f"device {device} cannot be reached")
        self.asked.append((device, command))


@pytest.fixture
def faults(tmp_path: Path) -> Iterator[Faults]:
    fleet, log = Workers(), RunLog.create(tmp_path, "faults", "static")
    state = RunState({name: DeviceState(name) for name in "abc"}, begun=True)
    recorder = Recorder(log, fleet.clock, 1)
    yield Faults(three_devices(), fleet, state, recorder, log)  # type: ignore[arg-type]
    log.close()


def lose(faults: Faults, device: str, event: DeviceLost = ENDED) -> None:
    with pytest.raises(DeviceGone):
        faults.lose(device, event, 0, 0)


def returning(faults: Faults) -> bool:
    return faults.returning


def asked(faults: Faults) -> list[Any]:
    fleet: Any = faults.fleet
    found, fleet.asked = fleet.asked, []
    return found


def test_what_a_lost_device_still_says_is_dropped_and_counted(faults: Faults) -> None:
    assert not faults.takes("b", Committed(3, 0))
    lose(faults, "b")
    token = Token(1, 2, "", 0, 0.0, 0.0, 0.0, 0.0)
    assert faults.takes("b", Committed(3, 0)) and faults.takes("b", token) and not faults.takes("c", token)
    faults.heard_late("a", {"b": 2, "c": 5})
    faults.heard_late("a", {"b": 3, "c": 6})
    faults.record_late()
    faults.heard_late("a", {"b": 3})  # as every collection tells
    faults.record_late()
    faults.log.flush()
    first, late = read_rows(faults.log.folder, "faults")
    assert (first["device"], first["cause"]) == ("b", "exit")
    assert (late["device"], late["cause"], late["messages"]) == ("b", "late", 5), "c is not lost: its messages are old"


def test_a_new_worker_is_offered_once_it_is_ready_and_all_know_it(faults: Faults) -> None:
    lose(faults, "b")
    asked(faults)
    faults.strike("b", "restart")
    faults.proceed()
    assert asked(faults) == [("restart", "b")] and returning(faults)
    assert faults.takes("b", Hello(7, "ipc://b"))
    assert asked(faults) == [("introduce", "b"), ("b", Load([], pinned=False))]
    assert faults.state.devices["b"].state == "returning" and faults.state.lost == {"b"}
    for event, device in ((Connected(), "a"), (Loaded(0), "b"), (Connected(), "b")):
        assert faults.takes(device, event)
        faults.offer()
        assert faults.state.lost == {"b"}
    assert faults.takes("c", Connected()) and not returning(faults)
    assert faults.offer() == ["b"] and not faults.state.lost


def test_a_new_worker_counts_late_words_anew(faults: Faults) -> None:
    for device in "bc":
        lose(faults, device)
    faults.heard_late("b", {"c": 2})
    faults.strike("b", "restart")
    faults.proceed()
    faults.takes("b", Hello(7, "ipc://b"))
    for event, device in ((Connected(), "a"), (Connected(), "b"), (Loaded(0), "b")):
        faults.takes(device, event)
    faults.offer()
    faults.heard_late("b", {"c": 1})
    faults.record_late()
    faults.log.flush()
    assert [row["messages"] for row in read_rows(faults.log.folder, "faults") if row["cause"] == "late"] == [3]


def test_who_dies_while_a_device_returns_is_not_waited_for(faults: Faults) -> None:
    lose(faults, "b")
    faults.strike("b", "restart")
    faults.proceed()
    faults.takes("b", Hello(7, "ipc://b"))
    for device in "ab":
        faults.takes(device, Connected())
    faults.takes("b", Loaded(0))
    assert returning(faults)
    lose(faults, "c")
    assert not returning(faults)


def test_two_devices_may_return_at_once(faults: Faults) -> None:
    for device in "bc":
        lose(faults, device)
        faults.strike(device, "restart")
    faults.proceed()
    for device in "bc":
        faults.takes(device, Hello(7, f"ipc://{device}"))
        faults.takes(device, Loaded(0))
    for _ in range(2):
        faults.takes("b", Connected())
        faults.takes("c", Connected())
    faults.takes("a", Connected())
    faults.offer()
    assert faults.state.lost == {"c"}, "a knows b's address, and not yet c's"
    faults.takes("a", Connected())
    faults.offer()
    assert not faults.state.lost


def test_a_new_worker_that_dies_is_lost_without_a_recovery_and_may_be_started_again(faults: Faults) -> None:
    lose(faults, "b")
    faults.strike("b", "restart")
    faults.proceed()
    faults.lose("b", ENDED, 0, 0)
    assert faults.state.devices["b"].state == "lost" and not returning(faults)
    faults.lose("b", ENDED, 0, 0)  # a second word of the same death
    faults.strike("b", "restart")
    faults.proceed()
    assert returning(faults)


def test_the_end_of_a_fenced_worker_is_no_further_loss(faults: Faults) -> None:
    lose(faults, "b", DeviceLost(False, None, hung="device b hangs"))
    assert asked(faults) == [("kill", "b")]
    assert faults.takes("b", ENDED) and not faults.takes("c", ENDED)


def test_a_restart_waits_until_the_death_before_it_has_been_noticed(faults: Faults) -> None:
    faults.strike("b", "kill")
    faults.strike("b", "restart")
    faults.proceed()
    assert asked(faults) == [("kill", "b")] and returning(faults)
    lose(faults, "b")
    faults.proceed()
    assert ("restart", "b") in asked(faults)


def test_a_device_may_be_killed_while_it_returns_and_is_started_once(faults: Faults) -> None:
    lose(faults, "b")
    for quantity in ("restart", "kill", "restart", "restart"):
        faults.strike("b", quantity)
    asked(faults)
    faults.proceed()
    faults.strike("b", "restart")
    faults.proceed()
    assert asked(faults) == [("restart", "b")]
    faults.strike("b", "kill")
    assert asked(faults) == [("kill", "b")] and faults.takes("b", ENDED) and not returning(faults)


def test_a_device_that_is_killed_while_it_returns_may_be_started_anew_before_that_is_noticed(faults: Faults) -> None:
    lose(faults, "b")
    faults.strike("b", "restart")
    faults.proceed()
    faults.takes("b", Hello(7, "ipc://b"))
    for device, event in (("a", Connected()), ("b", Connected()), ("c", Connected()), ("b", Loaded(0))):
        faults.takes(device, event)
    assert not returning(faults)
    faults.strike("b", "kill")
    assert returning(faults)
    faults.offer()
    assert faults.state.lost == {"b"}, "it is dying, and must not be offered"
    asked(faults)
    faults.strike("b", "restart")
    faults.proceed()
    assert not asked(faults)
    assert faults.takes("b", ENDED)
    faults.proceed()
    assert asked(faults)[-1] == ("restart", "b")


def test_a_new_worker_that_ends_before_its_first_word_is_heard_ends_no_run(faults: Faults) -> None:
    lose(faults, "b")
    faults.strike("b", "restart")
    faults.proceed()
    fleet: Any = faults.fleet
    fleet.up.discard("b")
    assert faults.takes("b", Hello(7, "ipc://b")) and faults.takes("b", ENDED)
    assert faults.state.lost == {"b"} and not returning(faults)
    faults.strike("b", "restart")
    faults.proceed()
    faults.strike("b", "kill")
    asked(faults)
    assert faults.takes("b", Hello(8, "ipc://b"))
    assert not asked(faults) and faults.state.devices["b"].state == "lost"


def test_a_restart_of_a_device_that_lives_does_nothing(faults: Faults) -> None:
    faults.strike("b", "restart")
    faults.proceed()
    assert not asked(faults) and not returning(faults)
    (told,) = read_lines(faults.log.folder / "events.jsonl")
    assert (told["kind"], told["device"], told["reason"]) == ("restart_ignored", "b", "it lives")


def test_before_the_first_token_a_loss_is_what_the_machine_lacks_unless_memory_ran_out(faults: Faults) -> None:
    faults.state.begun = False
    with pytest.raises(EnvironmentLacks, match="device b: its worker ended with code -9"):
        faults.lose("b", ENDED, 0, 0)
    with pytest.raises(OutOfMemory):
        faults.lose("b", DeviceLost(True, -9), 0, 0)


def test_a_controller_that_goes_on_knows_who_was_killed_unnoticed_and_who_was_on_the_way_back(faults: Faults) -> None:
    faults.log.journaled = True

    def known(*more: Lost) -> tuple[set[str], set[str]]:
        past = read_past(faults.log.folder)
        for line in more:
            past.add(line)
        return past.killed, past.returning

    faults.strike("b", "kill")
    assert known() == ({"b"}, set())
    faults.strike("b", "restart")
    assert known() == ({"b"}, {"b"})
    lose(faults, "b")
    assert known() == (set(), {"b"})
    assert known(Lost({"device": "b"})) == (set(), set()), "it had returned and was lost without a trace's doing"
    faults.proceed()
    faults.strike("b", "kill")
    assert known() == (set(), set()), "it died before it stood"
