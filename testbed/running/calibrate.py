"""Measuring what this host's software adds to emulated tokens: what `testbed calibrate` does.

Two short runs of a GPT-2 on four unequal devices are made: one whose policy spreads every layer over all of them, and
one whose policy spreads little. The time per hop is the value for which the cost model's tokens are as long as the
measured ones, over both runs alike. So it contains everything that comes with a hop and that the model leaves out:
sending, waking, unpacking and waiting for a core of this host, less what a link's token bucket lets pass at once.

`testbed.controller.calibration` has the values and their file. What `testbed.controller.startup_calibration` measures
before token 0 belongs to one run.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from testbed.bundled import bundled
from testbed.controller.calibration import NOMINAL, HostCalibration, writable_calibration_path, write_calibration
from testbed.doctor.bench_concurrency import measure_speed
from testbed.errors import ConfigError, RunFailed
from testbed.experiment.schema import Experiment
from testbed.placement.blocks import Placement, parse_block
from testbed.placement.cost.model import token_latency
from testbed.placement.observation import Observation
from testbed.placement.plan import Plan, make_plan
from testbed.runlog.folder import EVENTS, read_lines, read_rows
from testbed.runlog.summary import percentile
from testbed.running.backends import choose_backend, find_backend
from testbed.running.carry_out import carry_out
from testbed.running.first_observation import first_observation
from testbed.running.remarks import Tell, tell_log
from testbed.running.request import RunRequest
from testbed.temporary import temporary_folder

POLICIES = ("round-robin", "paper-search")
TOKENS = 32
PROMPT = list(range(1, 25))
SLOWEST_HOP_S = 5e-3  # where the search ends
HOP_STEP_S = 1e-6  # what is kept of it
BLOCK_RUNS = 9  # of each kind of block; the median is kept


@dataclass(frozen=True)
class MeasuredRun:
    """One run: its first observation, its route plan, and the median latency of its tokens."""

    observation: Observation
    plan: Plan
    length: int  # of the middle token
    latency_s: float


def calibrate(
    backend: str | None = None, *, share_host: bool = False, keep: bool = True, tell: Tell = tell_log
) -> HostCalibration:
    """Measure this host on a backend, keep the values in this host's calibration file, and return them.

    It takes about a minute, in which nothing else should run. `backend` is an emulated one; by default mininet where it
    can run, else local. `share_host` does not wait for other emulated runs. Without `keep` no file is written. Times
    are seconds of real time. Raises EnvironmentLacks if this machine lacks something, and RunFailed if a run fails.

    Example: `calibrate("local").hop_overhead_s`
    """
    if keep:
        writable_calibration_path()  # else it would fail after all has been measured
    chosen = choose_backend(backend, tell)
    if not find_backend(chosen).emulated:
        raise ConfigError(f"backend {chosen} has no software of this host in it: measure on an emulated one")
    found = _measure(chosen, share_host, tell)
    if keep:
        write_calibration(found)
    return found


def _measure(backend: str, share_host: bool, tell: Tell) -> HostCalibration:
    measured: list[MeasuredRun] = []
    floors: list[float] = []
    with temporary_folder("headroom-calibrate-") as folder:
        for policy in POLICIES:
            experiment = _experiment(policy)
            tell(f"Measuring {experiment.tokens} tokens under {policy} on {backend} …")
            request = RunRequest(experiment, backend, folder, share_host=share_host)
            summary = carry_out(request, tell, NOMINAL)
            if summary["status"] != "done":
                raise RunFailed(f"a calibration run under {policy} failed: {summary['error']}")
            measured.append(_measured(experiment, Path(summary["path"])))
            events = read_lines(Path(summary["path"]) / EVENTS)
            floors += [event["pacing_floor_s"] for event in events if event["kind"] == "calibrated"]
    tell("Measuring blocks on one core, and devices that compute at once …")
    speed, _ = measure_speed()
    return HostCalibration(
        hop_overhead_s=fit_hop(measured),
        pacing_floor_s=max(floors),
        backend=backend,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        host={"system": platform.platform(), "cores": os.cpu_count()},
        block_seconds=block_seconds(_experiment(POLICIES[0])),
        model="gpt2",
        speed=speed,
    )


def _experiment(policy: str) -> Experiment:
    topology = bundled("topology")["star4"]
    keys: dict[str, Any] = {
        "model": {"preset": "gpt2", "seed": 7}, "prompt": {"ids": PROMPT}, "tokens": TOKENS, "interval": TOKENS,
        "topology": str(topology), "policy": policy,
    }  # fmt: skip
    return Experiment.from_dict(keys, "calibration")


def _measured(experiment: Experiment, folder: Path) -> MeasuredRun:
    decoded = [row for row in read_rows(folder, "tokens") if not row["prefill"]]
    latency = percentile([row["latency_s"] for row in decoded], 50)
    assert latency is not None
    observation = first_observation(experiment, len(PROMPT), NOMINAL)
    placed = {parse_block(row["block"]): row["device"] for row in read_rows(folder, "placements")}
    return MeasuredRun(observation, make_plan(observation, Placement(placed)), len(PROMPT) + TOKENS // 2, latency)


def fit_hop(measured: Sequence[MeasuredRun]) -> float:
    """Return the seconds per hop for which the model's relative errors over the runs add up to zero.

    The value is a multiple of a microsecond.
    """

    def excess(hop_s: float) -> float:
        return sum(
            token_latency(replace(one.observation, hop_overhead_s=hop_s), one.plan, one.length) / one.latency_s - 1
            for one in measured
        )

    low, high = 0.0, SLOWEST_HOP_S
    while high - low > HOP_STEP_S / 2:
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    return round(high / HOP_STEP_S) * HOP_STEP_S


def block_seconds(experiment: Experiment) -> dict[str, float]:
    """Return the median seconds that one core of this host needs for a block of each kind, on one token, unpaced."""
    import numpy as np

    from testbed.decoder.store import BlockStore
    from testbed.decoder.weights import RandomWeights
    from testbed.placement.blocks import Block

    one = replace(experiment.shape, name="calibration", layers=1, positions=len(PROMPT) + 1)
    store = BlockStore(one, RandomWeights(one, 0), one.positions)
    for block in (Block("head", 0, 0), Block("proj", 0), Block("ffn", 0)):
        store.add(block)
    x, heads = (np.zeros((1, size), np.float32) for size in (one.width, one.heads * one.head_dim))
    operations: dict[str, Callable[[], Any]] = {
        "head": lambda: store.heads(0, [0], x, len(PROMPT)),
        "proj": lambda: store.proj(0, heads, x),
        "ffn": lambda: store.ffn(0, x),
    }
    found = {}
    for kind, operation in operations.items():
        times = []
        for _ in range(BLOCK_RUNS):
            started = time.perf_counter()
            operation()
            times.append(time.perf_counter() - started)
        found[kind] = sorted(times)[len(times) // 2]
    return found
