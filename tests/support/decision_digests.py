"""The decisions of every policy on the shipped experiments and on twenty drawn instances, as digests.

A digest is the SHA-256 of all placements that a policy decides in a run, block by block. A change that must not change
decisions leaves `decision_digests.json` as it is. A change that means to change decisions writes it again:

    PYTHONPATH=. python tests/support/decision_digests.py
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from testbed.controller.conditions import Conditions, observe
from testbed.errors import ConfigError
from testbed.experiment.schema import Experiment
from testbed.placement.cost.memory import Infeasible
from testbed.placement.policies import POLICIES, make_policy, refuse_exchange

ROOT = Path(__file__).parents[2]
KEPT = Path(__file__).with_name("decision_digests.json")
SHIPPED = ("gpt2-star4", "small-scale", "medium-scale")
DRAWN = 20
HOP_S = 0.0003
DECISIONS = 4  # the most of a run; later ones go through the same code
STOPS_BY_CLOCK = {("medium-scale", "exact")}  # the answer depends on the machine's speed


def drawn(number: int) -> Experiment:
    """One of the twenty instances, which vary in devices, layers, heads, partition, memory and links."""
    chance = random.Random(f"decision/{number}")
    shards = chance.choice([1, 1, 2, 4])
    overrides = [
        f"model={{preset: gpt2, layers: {chance.choice([1, 2, 3])}, heads: {chance.choice([4, 8, 12])}, "
        "vocab: 256, seed: 7}",
        f"topology={{generate: paper, devices: {chance.choice([3, 4, 5])}, "
        f"memory: {chance.choice([1.2, 1.4, 2.0, 4.0])} x model}}",
        f"partition.ffn_shards={shards}",
        f"seed={number}",
        f"tokens={chance.choice([24, 32])}",
    ]
    if shards > 1 and chance.random() < 0.6:
        overrides.append("partition.proj_rows=true")
        if chance.random() < 0.5:
            overrides.append("partition.exchange=all-to-all")
    return Experiment.load(ROOT / "experiments/small-scale.yaml", overrides)


def decisions(experiment: Experiment, name: str) -> str:
    """The digest of the first decisions of a run, or the reason why there are none."""
    policy = make_policy(name, {})
    refuse_exchange(name, experiment.partition, None)
    policy.reset(experiment.seed)
    conditions = Conditions(experiment)
    conditions.begin()
    assert experiment.prompt_tokens is not None
    digest, placement = hashlib.sha256(), None
    for boundary, done in enumerate(range(0, experiment.tokens, experiment.interval)[:DECISIONS]):
        if done:
            conditions.advance(float(done), boundary)
        seen = observe(experiment, conditions, experiment.prompt_tokens, done, HOP_S)
        try:
            wanted = policy.decide(seen, placement)
        except Infeasible:
            digest.update(b"infeasible")
            if placement is None:
                break
            wanted = placement
        placement = wanted
        for block in sorted(placement.devices):
            digest.update(f"{block}={placement.devices[block]};".encode())
        conditions.enforce(boundary, True)
    return digest.hexdigest()[:16]


def cases() -> Iterator[tuple[str, str, Experiment]]:
    """(name of the instance, policy, experiment)."""
    instances = {name: Experiment.load(ROOT / f"experiments/{name}.yaml") for name in SHIPPED}
    instances |= {f"drawn-{number}": drawn(number) for number in range(DRAWN)}
    for instance, experiment in instances.items():
        for policy in POLICIES:
            if (instance, policy) not in STOPS_BY_CLOCK:
                yield instance, policy, experiment


def digest(policy: str, experiment: Experiment) -> str:
    """The result of `decisions`, or `refused` if the policy refuses the experiment."""
    try:
        return decisions(experiment, policy)
    except ConfigError:
        return "refused"


if __name__ == "__main__":
    found: dict[str, Any] = {}
    for instance, policy, experiment in cases():
        found.setdefault(instance, {})[policy] = digest(policy, experiment)
    KEPT.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
