"""Starts twenty devices from a warm forkserver, against twenty fresh interpreters that load the same.

`python -m benchmarks.spawn` starts both kinds in turns. It compares the time until the last process is ready and the
private memory of each. The time of the forkserver includes its own start and its imports.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing.forkserver
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from testbed.emulation.local_fleet import LocalFleet
from testbed.emulation.process_fleet import private_bytes
from testbed.experiment.schema import Experiment

DEVICES = 20
FRESH = "import sys, testbed.emulation.preload; print('ready', flush=True); sys.stdin.read()"


def experiment(devices: int) -> Experiment:
    """A topology of small devices on which no token is generated."""
    each = {"streaming": "100 MB/s", "compute": "1 GFLOP/s", "memory": "64 MiB", "storage": "90 MB/s"}
    link = {"rate": "100 Mbit/s", "delay": "0.3 ms"}
    topology = {
        "shape": "star", "source": "d0", "devices": {f"d{n}": {**each, "link": link} for n in range(devices)},
    }  # fmt: skip
    return Experiment.from_dict(
        {"model": {"preset": "tiny"}, "prompt": {"text": "x"}, "tokens": 1, "topology": topology, "traces": []}, "spawn"
    )


def forked(devices: int) -> tuple[float, float]:
    """The seconds until the last worker is connected, with the forkserver's start, and the median private bytes."""
    multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]  # so that its start is counted
    with tempfile.TemporaryDirectory(prefix="hr") as folder:
        fleet = LocalFleet(experiment(devices), Path(folder), 8)
        started = time.perf_counter()
        fleet.start()
        seconds = time.perf_counter() - started
        private = statistics.median(private_bytes(pid) for pid in fleet.network_pids().values())
        fleet.stop()
    return seconds, private


def fresh(devices: int) -> tuple[float, float]:
    """The seconds until the last interpreter has loaded a worker, and the median private bytes."""
    started = time.perf_counter()
    processes = [
        subprocess.Popen([sys.executable, "-c", FRESH], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(devices)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    seconds = time.perf_counter() - started
    private = statistics.median(private_bytes(process.pid) for process in processes)
    for process in processes:
        process.communicate()
    return seconds, private


def main() -> None:
    """Print the medians and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    ours, theirs = [], []
    for number in range(rounds):
        ours.append(forked(DEVICES))
        theirs.append(fresh(DEVICES))
        print(f"round {number + 1}: forkserver {ours[-1][0]:.2f} s, fresh interpreters {theirs[-1][0]:.2f} s")
    forked_s, fresh_s = (statistics.median(seconds for seconds, _ in side) for side in (ours, theirs))
    forked_b, fresh_b = (statistics.median(size for _, size in side) for side in (ours, theirs))
    print(
        json.dumps(
            {
                "benchmark": "spawn",
                "peer": f"{DEVICES} fresh Python interpreters that load a worker",
                "ratio": fresh_s / forked_s,
                "unit": "times faster until all are ready",
                "devices": DEVICES,
                "rounds": rounds,
                "forkserver_s": forked_s,
                "peer_s": fresh_s,
                "forkserver_private_bytes_each": forked_b,
                "peer_private_bytes_each": fresh_b,
                "private_memory_ratio": fresh_b / forked_b,
            }
        )
    )


if __name__ == "__main__":
    main()
