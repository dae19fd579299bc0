"""The CPU time of deciding and of simulating, against another checkout of this repository.

`python -m benchmarks.against FOLDER` takes the observations that a policy sees in a run of this checkout's
experiments, and decides on them in a process of each checkout in turns. Both must decide alike. Then the command
`testbed replay --backend sim` runs in each checkout in turns, with the same experiment. Each ratio is the median over
the turns; the last line is JSON. The other checkout needs only its sources: it is run by this interpreter.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from testbed.placement.blocks import Partition
from testbed.placement.observation import DeviceView, LinkView, Observation
from testbed.placement.policies import POLICIES, make_policy

try:
    from testbed.models.presets import PRESETS
except ImportError:  # in an older checkout
    from testbed.shape import PRESETS  # type: ignore[attr-defined,no-redef]

# The other checkout's process runs this program with that checkout's modules, so they are imported by few names.

ROOT = Path(__file__).resolve().parents[1]
NEW = ("paper", "paper-search")  # not in older checkouts, which call the latter resource-aware
DECIDED = {  # experiment -> policies
    "gpt2-star4": (*(name for name in POLICIES if name not in NEW), "resource-aware"),
    "medium-scale": ("headroom", "resource-aware"),
}
DECISIONS = 6  # of a run, from the first one on
HOP_S = 0.0003
LEAST_S = 0.2  # CPU time of a turn; short sequences are repeated
SIMULATED = "medium-scale"  # 25 devices, 1,000 tokens


def observations(experiment_name: str) -> list[dict[str, Any]]:
    """What a policy sees at the first decisions of a run, in plain values."""
    from testbed.controller.conditions import Conditions, observe
    from testbed.experiment.schema import Experiment

    experiment = Experiment.load(ROOT / f"experiments/{experiment_name}.yaml")
    conditions = Conditions(experiment)
    conditions.begin()
    assert experiment.prompt_tokens is not None
    found = []
    for boundary, done in enumerate(range(0, experiment.tokens, experiment.interval)[:DECISIONS]):
        if done:
            conditions.advance(float(done), boundary)
        seen = observe(experiment, conditions, experiment.prompt_tokens, done, HOP_S)
        assert seen.shape == PRESETS[seen.shape.name] and seen.routes is None
        plain = {name: getattr(seen, name) for name in ("source", "prompt_tokens", "tokens_done", "tokens_max",
                 "interval", "weights", "hop_overhead_s")}  # fmt: skip
        plain["shape"], plain["partition"] = seen.shape.name, asdict(seen.partition)
        plain["devices"] = [asdict(device) for device in seen.devices]
        for device in plain["devices"]:
            del device["model"]  # an older checkout has none, and these devices' are plain
        plain["links"] = {name: asdict(link) for name, link in seen.links.items()}
        found.append(plain)
        conditions.enforce(boundary, True)
    return found


def observed(plain: dict[str, Any]) -> Observation:
    """The observation, of this process's own classes. With `layers`, the preset has so many."""
    shape = PRESETS[plain["shape"]]
    parts = {
        "shape": replace(shape, layers=plain.get("layers", shape.layers)),
        "partition": Partition(**plain["partition"]),
        "devices": tuple(DeviceView(**device) for device in plain["devices"]),
        "links": {name: LinkView(**link) for name, link in plain["links"].items()},
    }
    return Observation(**{key: value for key, value in plain.items() if key != "layers"} | parts)


def answer() -> None:
    """Answer each line on the standard input, a policy's name and what it sees, with its decisions and their time."""
    for line in sys.stdin:
        asked = json.loads(line)
        spent, turns = 0.0, 0
        while not turns or (spent < asked["least_s"] and turns < 50):
            seen = [observed(plain) for plain in asked["observations"]]  # nothing is remembered from the last turn
            policy = make_policy(asked["policy"], {})
            policy.reset(1)
            placement, decided = None, []
            started = time.process_time()
            for one in seen:
                try:
                    placement = policy.decide(one, placement)
                except Exception as error:
                    if type(error).__name__ != "Infeasible":  # its module has another name in an older checkout
                        raise
                decided.append(placement)
            spent, turns = spent + time.process_time() - started, turns + 1
        told = [one and sorted([str(block), device] for block, device in one.devices.items()) for one in decided]
        print(json.dumps({"cpu_s": spent / turns, "decided": told}), flush=True)


class Decider:
    """A process that decides with the modules of a checkout."""

    def __init__(self, checkout: Path) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), "--answer"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=checkout, env=_environment(checkout)
        )

    def ask(self, policy: str, seen: list[dict[str, Any]], least_s: float = LEAST_S) -> dict[str, Any]:
        """The decisions of a policy, and their CPU time."""
        assert self._process.stdin is not None and self._process.stdout is not None
        asked = {"policy": policy, "observations": seen, "least_s": least_s}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answered: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answered

    def end(self) -> None:
        """End the process."""
        self._process.communicate()


def deciding(other: Path, turns: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """For each experiment and policy: the CPU times of a decision in both checkouts, and their ratio."""
    here, there = Decider(ROOT), Decider(other)
    for experiment, policies in DECIDED.items():
        seen = observations(experiment)
        for policy in policies:
            alike = here.ask(policy, seen, 0.0)["decided"] == there.ask(policy, seen, 0.0)["decided"]  # warms up, too
            own, others = [], []
            for turn in range(turns):
                for process, times in ((here, own), (there, others))[:: -1 if turn % 2 else 1]:
                    times.append(process.ask(policy, seen)["cpu_s"] / len(seen))
            yield f"{policy} on {experiment}", _compared(own, others) | {"alike": alike}
    here.end()
    there.end()


def simulating(other: Path, turns: int) -> dict[str, Any]:
    """The CPU times of the command that simulates a run in both checkouts, and their ratio."""
    own: list[float] = []
    others: list[float] = []
    for turn in range(turns + 1):  # the first one warms up
        for checkout, times in ((ROOT, own), (other, others))[:: -1 if turn % 2 else 1]:
            spent = _simulate(checkout)
            if turn:
                times.append(spent)
    return _compared(own, others)


def _simulate(checkout: Path) -> float:
    """The CPU time of the command, with all the processes that it starts."""
    with tempfile.TemporaryDirectory(prefix="headroom-against-") as folder:
        command = [sys.executable, "-m", "testbed", "replay", f"experiments/{SIMULATED}.yaml", "--backend", "sim"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [*command, "--out", f"{folder}/run"], check=True, capture_output=True, cwd=checkout,
            env=_environment(checkout),
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _environment(checkout: Path) -> dict[str, str]:
    return dict(os.environ) | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}


def _compared(own: list[float], others: list[float]) -> dict[str, Any]:
    from benchmarks.rounds import ratios, told  # which an older checkout does not have

    return told(ratios(own, others)) | {
        "ours_ms": statistics.median(own) * 1e3,
        "peer_ms": statistics.median(others) * 1e3,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--turns", type=int, default=11)
    parser.add_argument("--simulations", type=int, default=5)
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.answer:
        answer()
        return
    if given.folder is None:
        parser.error("the other checkout is missing")
    other = given.folder.resolve()
    figures: dict[str, Any] = {}
    for name, found in deciding(other, given.turns):
        figures[name] = found
        shown = f"{found['median']:.3f} ({found['least']:.3f} to {found['most']:.3f})"
        same = "the same decisions" if found["alike"] else "OTHER DECISIONS"
        print(f"{name}: {shown}, {found['ours_ms']:.2f} ms against {found['peer_ms']:.2f}, {same}", flush=True)
    if given.simulations:
        figures[f"replay --backend sim of {SIMULATED}"] = simulating(other, given.simulations)
    line = {
        "benchmark": "against",
        "ratio": statistics.median(one["median"] for one in figures.values()),
        "unit": "times the CPU time",
        "peer": f"the checkout {other.name}",
        **figures,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
