"""The time and the memory that policies need to decide.

`python -m benchmarks.policy [--policy NAME]… [--rounds N]` measures growing fleets: a first placement, and then
decisions under rates that change each time. Each policy and size has a process of its own. Compiled policies are warmed
up first, as at the start of a run. `--size` selects sizes; a policy that takes more than `--limit` seconds is left out.
`--against FOLDER` measures another checkout of this repository in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rounds import ratios, told
from testbed.models.presets import PRESETS
from testbed.placement.blocks import Partition, Placement, blocks_of, pinned_bytes, resident_bytes
from testbed.placement.observation import DeviceView, LinkView, Observation
from testbed.placement.policies import make_policy
from testbed.shape import ModelShape, WeightFormats

LLAMA = replace(PRESETS["llama-2-7b"], weights=WeightFormats.all_in("float16"), kv_format="float16")
# Devices, model, and the memory of all devices as a multiple of the model's. With many devices it is larger, so that
# the largest block fits on one.
SIZES = {
    "5": (5, PRESETS["gpt2"], 1.6), "25 of gpt2": (25, PRESETS["gpt2"], 1.6), "25": (25, LLAMA, 1.6),
    "200": (200, LLAMA, 5.0),
}  # fmt: skip
ROOT = Path(__file__).resolve().parents[1]
# What a process runs. An older checkout's program has fewer sizes.
ONE = """
import json, sys
from benchmarks import policy
policy.SIZES["25 of gpt2"] = 25, policy.PRESETS["gpt2"], 1.6
print(json.dumps(policy.decide(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
"""
FORMER = {"paper-search": "resource-aware"}  # what another checkout may call a policy
LATER = 7  # decisions after the first
CONTEXT, TOKENS, INTERVAL = 64, 1000, 16


def fleet(devices: int, shape: ModelShape, tightness: float, shards: int, seed: int) -> Observation:
    """A star with log-normal memory, speeds and links; the source has extra room for its pinned bytes."""
    rng = np.random.default_rng(seed)
    partition = Partition(ffn_shards=shards)
    names = [f"d{number}" for number in range(devices)]
    whole = sum(resident_bytes(shape, block, CONTEXT + TOKENS, partition) for block in blocks_of(shape, partition))
    memory = rng.lognormal(0, 0.4, devices)
    memory = tightness * whole * memory / memory.sum()
    memory[0] += pinned_bytes(shape, partition)
    streaming, rate = rng.lognormal(np.log(6e9), 0.5, devices), rng.lognormal(np.log(2e8), 0.5, (devices, 2))
    delay = rng.lognormal(np.log(5e-4), 0.5, devices)
    views = [
        DeviceView(name, int(memory[n]), float(streaming[n]), float(4 * streaming[n]), 9e7)
        for n, name in enumerate(names)
    ]
    links = {
        name: LinkView(float(rate[n, 0]), float(rate[n, 1]), float(delay[n]), float(delay[n]))
        for n, name in enumerate(names)
    }
    return Observation(shape, partition, "d0", tuple(views), links, CONTEXT, 0, TOKENS, INTERVAL, hop_overhead_s=2e-4)


def shaken(observation: Observation, tokens_done: int, rng: np.random.Generator) -> Observation:
    """The same fleet later, with each link's rate changed by about 30 %."""
    links = {
        name: replace(link, up_bps=link.up_bps * float(rng.lognormal(0, 0.3)))
        for name, link in observation.links.items()
    }
    return replace(observation, links=links, tokens_done=tokens_done)


def decide(policy_name: str, size: str, shards: int) -> dict[str, float]:
    """The milliseconds of the first and of later decisions, and the largest resident size of the process."""
    devices, shape, tightness = SIZES[size]
    observation = fleet(devices, shape, tightness, shards, 1)
    policy = make_policy(policy_name, {})
    policy.reset(1)
    rng = np.random.default_rng(2)
    placement: Placement | None = None
    taken: list[float] = []
    for number in range(LATER + 1):
        seen = shaken(observation, number * INTERVAL, rng) if number else observation
        started = time.perf_counter()
        placement = policy.decide(seen, placement)
        taken.append((time.perf_counter() - started) * 1e3)
    later = sorted(taken[1:])
    return {
        "first_ms": taken[0],
        "later_ms": statistics.median(later),
        "later_most_ms": later[-1],
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def measured(checkout: Path, policy: str, size: str, shards: int, limit_s: float) -> dict[str, float] | None:
    """The figures of one process of a checkout; None if it takes too long or finds no placement."""
    name = policy if checkout == ROOT else FORMER.get(policy, policy)
    command = [sys.executable, "-P", "-c", ONE, name, size, str(shards)]
    environment = dict(os.environ) | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit_s, check=True, cwd=checkout, env=environment
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        print(f"{policy} at {size} devices, {shards} shards in {checkout}: {type(error).__name__}", file=sys.stderr)
        return None
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> None:
    """Print a line for each policy and size, and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", action="append", help="default: headroom, paper-search and paper")
    parser.add_argument("--size", action="append", choices=SIZES)
    parser.add_argument("--shards", type=int, action="append", help="of each FFN; default: 1 and 4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=60.0)
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another checkout")
    given = parser.parse_args()
    checkouts = {"ours": ROOT} | ({} if given.against is None else {"theirs": given.against.resolve()})
    figures: dict[str, Any] = {}
    compared: dict[str, dict[str, dict[str, float]]] = {}
    for size in given.size or list(SIZES):
        for shards in given.shards or (1, 4):
            for policy in given.policy or ["headroom", "paper-search", "paper"]:
                name = f"{policy} {size} devices {shards} shards"
                found = _rounds(checkouts, policy, size, shards, given)
                if found["ours"]:
                    keys = found["ours"][0]
                    figures[name] = {key: statistics.median(one[key] for one in found["ours"]) for key in keys}
                    shown = ", ".join(f"{key} {value:.1f}" for key, value in figures[name].items())
                    print(f"{policy}, {size} devices, {shards} shards: {shown}", flush=True)
                if found["ours"] and found.get("theirs"):
                    compared[name] = _compared(found)
                    print(f"{name}: {compared[name]}", flush=True)
    ours, peer = (figures.get(f"{name} 5 devices 1 shards") for name in ("headroom", "paper-search"))
    line: dict[str, Any] = {
        "benchmark": "policy",
        "peer": "paper-search, at 5 devices, 12 layers, 12 heads",
        "unit": "times as long for headroom's later decisions",
        "rounds": given.rounds,
        **figures,
        "to theirs": compared,
    }
    if ours and peer:
        line["ratio"] = ours["later_ms"] / peer["later_ms"]
    print(json.dumps(line))


def _rounds(
    checkouts: dict[str, Path], policy: str, size: str, shards: int, given: argparse.Namespace
) -> dict[str, list[dict[str, float]]]:
    """What the checkouts took in their turns; a checkout that fails once is left out."""
    found: dict[str, list[dict[str, float]]] = {whose: [] for whose in checkouts}
    for number in range(given.rounds):
        for whose in list(found)[:: -1 if number % 2 else 1]:
            one = measured(checkouts[whose], policy, size, shards, given.limit)
            if one is None:
                del found[whose]
                if whose == "ours":
                    return {"ours": []}
            else:
                found[whose].append(one)
    return found


def _compared(found: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """The ratios of ours to theirs in each round."""
    return {
        what: told(ratios([one[key] for one in found["ours"]], [one[key] for one in found["theirs"]]))
        for what, key in (("first decision", "first_ms"), ("later decisions", "later_ms"))
    }


if __name__ == "__main__":
    main()
