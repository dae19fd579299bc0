"""Every policy decides as it did when its digests were written (`decision_digests.py` says how to write them anew)."""

from __future__ import annotations

import json

import pytest
from decision_digests import KEPT, cases, digest

from testbed.experiment.schema import Experiment

CASES = [(instance, policy, experiment) for instance, policy, experiment in cases()]


@pytest.mark.parametrize(
    ("instance", "policy", "experiment"), CASES, ids=[f"{instance}-{policy}" for instance, policy, _ in CASES]
)
def test_a_policy_decides_as_before(instance: str, policy: str, experiment: Experiment) -> None:
    assert digest(policy, experiment) == json.loads(KEPT.read_text())[instance][policy]


def test_every_digest_is_compared() -> None:
    kept = json.loads(KEPT.read_text())
    assert {(instance, policy) for instance, of in kept.items() for policy in of} == {case[:2] for case in CASES}
