"""Whoever does not belong to a run can neither end it nor put anything into it: inside its network, and on its host."""

from __future__ import annotations

from pathlib import Path

from running import UNJUDGED, Place, two_placements, write_experiment
from strangers import survives
from trespassing import let_in, listening

MALFORMED = 100  # tests/nightly sends 10,000


def test_malformed_frames_from_inside_are_counted_and_change_no_token(place: Place, tmp_path: Path) -> None:
    survives(place, tmp_path, 24, MALFORMED, "16 ms")


def test_another_user_of_the_host_can_neither_end_nor_disturb_a_local_run(place: Place, tmp_path: Path) -> None:
    """As could be done to each device's data socket while that was TCP on loopback."""
    policy = two_placements(tmp_path, {"*": "a", "head(*,*)": "b"}, {"ffn(*)": "c"}, gate := tmp_path / "attacked")
    experiment = write_experiment(tmp_path, policy=policy, decision_limit="5 min")
    with place.started(experiment, "--backend", "local", "--verify", *UNJUDGED) as going:
        going.until_token(2)
        sockets = listening(member.pid for member in going.members())
        assert len([path for path in sockets if Path(path).name.startswith("data-")]) == 4, sockets
        assert let_in(sockets) == []
        gate.touch()
        ended = going.end()
    assert ended.code == 0, ended.err
    assert (ended.summary["status"], ended.summary["verified"]) == ("done", "bitwise")
