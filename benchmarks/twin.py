"""How the twin's time and memory grow with devices, layers and tokens.

`python -m benchmarks.twin` simulates runs of growing size under `headroom` and `round-robin`, each in a process of its
own. It varies devices, layers and tokens one at a time around 100 devices, 32 layers and 1,000 tokens. An exponent is
the slope of a straight line through the logarithms: with 1, twice the tokens take twice the time. Seconds are of CPU
time. `loading` is what a policy needs to load its machine code, and `outside` all but this and deciding. The usual size
is measured in `--rounds` rounds in which the policies take turns, the others once. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.rounds import told

POLICIES = ("headroom", "round-robin")
USUAL = {"devices": 100, "layers": 32, "tokens": 1000}
SIZES = {"devices": (25, 100, 400), "layers": (8, 32), "tokens": (250, 1000)}
SMALL = {"devices": 20, "layers": 8, "tokens": 60}
SMALL_SIZES = {"devices": (16, 20), "layers": (8, 10), "tokens": (30, 60)}
INTERVAL = 16


def experiment(folder: Path, policy: str, devices: int, layers: int, tokens: int) -> dict[str, Any]:
    """A star of unequal devices whose links change with every interval, and a model of 32 heads in each layer."""
    config = {
        "model_type": "gpt2", "n_layer": layers, "n_embd": 1024, "n_head": 32, "vocab_size": 1000, "n_positions": 4096,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    draw = random.Random(1)
    fleet = {
        f"d{number:03}": {
            "streaming": f"{draw.uniform(1, 4):.3f} GB/s", "compute": f"{draw.uniform(5, 20):.2f} GFLOP/s",
            "memory": f"{6 * layers + 8} MiB", "storage": "90 MB/s",
            "link": {"rate": f"{draw.uniform(50, 500):.0f} Mbit/s", "delay": "0.5 ms"},
        }
        for number in range(devices)
    }  # fmt: skip
    fleet["d000"]["memory"] = f"{6 * layers + 40} MiB"
    rows = ["time,target,quantity,value"]
    for done in range(INTERVAL, tokens, INTERVAL):
        rows += [
            f"{done},link/{name},rate,{draw.uniform(50, 500):.0f} Mbit/s" for name in draw.sample(sorted(fleet), 8)
        ]
    (folder / "links.csv").write_text("\n".join(rows) + "\n")
    return {
        "model": {"path": str(folder)}, "prompt": {"ids": list(range(32))}, "tokens": tokens, "interval": INTERVAL,
        "topology": {"name": "fleet", "shape": "star", "source": "d000", "devices": fleet}, "policy": policy,
        "traces": [str(folder / "links.csv")],
    }  # fmt: skip


def simulate(policy: str, devices: int, layers: int, tokens: int) -> dict[str, float]:
    """The CPU seconds of one run in this process, and its largest resident size."""
    from testbed.controller import generation
    from testbed.experiment.schema import Experiment
    from testbed.running.replay import replay_once

    spent = {"deciding": 0.0, "loading": 0.0}

    def timed(call: Callable[..., Any], what: str) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            started = time.process_time()
            try:
                return call(*arguments)
            finally:
                spent[what] += time.process_time() - started

        return called

    generation.call_policy = timed(generation.call_policy, "deciding")
    generation.reset_policy = timed(generation.reset_policy, "loading")
    with tempfile.TemporaryDirectory(prefix="headroom-twin-") as name:
        folder = Path(name)
        run = Experiment.from_dict(experiment(folder, policy, devices, layers, tokens), "twin")
        started = time.process_time()
        summary = replay_once(run, "sim", folder / "runs")
        seconds = time.process_time() - started
    if summary["status"] != "done":
        raise SystemExit(f"{policy} with {devices} devices, {layers} layers, {tokens} tokens: {summary['error']}")
    return {
        "seconds": seconds, "outside_s": seconds - spent["deciding"] - spent["loading"], "loading_s": spent["loading"],
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip


def measured(size: dict[str, int], policies: Sequence[str] = POLICIES) -> dict[str, float]:
    """The figures of a run under each policy, in a process of its own."""
    found: dict[str, float] = {}
    for policy in policies:
        command = [sys.executable, "-m", "benchmarks.twin", "--one", policy, *map(str, size.values())]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr.strip())
        line = json.loads(done.stdout.strip().splitlines()[-1])
        found |= {f"{policy} {figure}": value for figure, value in line.items()}
    return found


def alternated(size: dict[str, int], rounds: int) -> dict[str, Any]:
    """The ratios of headroom to round-robin at one size: outside deciding, and with loading counted as outside, too."""
    found = [measured(size, POLICIES[:: -1 if number % 2 else 1]) for number in range(rounds)]
    outside = [one["headroom outside_s"] / one["round-robin outside_s"] for one in found]
    loaded = [
        (one["headroom outside_s"] + one["headroom loading_s"])
        / (one["round-robin outside_s"] + one["round-robin loading_s"])
        for one in found
    ]
    return {
        "ratio": statistics.median(outside),
        "headroom to round-robin outside deciding": told(outside),
        "the same with loading": told(loaded),
    }


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """The slope of the straight line through the logarithms, by least squares."""
    slope, _ = statistics.linear_regression([math.log(one) for one in sizes], [math.log(one) for one in values])
    return slope


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vary", action="append", choices=tuple(SIZES), help="default: all")
    parser.add_argument("--rounds", type=int, default=5, help="of the usual size")
    parser.add_argument("--small", action="store_true", help="small sizes, to try the program")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(simulate(given.one[0], *map(int, given.one[1:]))))
        return
    usual, varied = (SMALL, SMALL_SIZES) if given.small else (USUAL, SIZES)
    rows: dict[tuple[int, ...], dict[str, float]] = {}
    grown: dict[str, dict[str, float]] = {}
    for key in given.vary or varied:
        sizes = [usual | {key: value} for value in varied[key]]
        for size in sizes:
            if tuple(size.values()) not in rows:
                rows[tuple(size.values())] = size | measured(size)
                print(
                    ", ".join(f"{what} {value:.4g}" for what, value in rows[tuple(size.values())].items()), flush=True
                )
        found = [rows[tuple(size.values())] for size in sizes]
        grown[f"exponents in {key}"] = {
            figure: exponent(varied[key], [row[figure] for row in found])
            for figure in found[0]
            if figure not in usual and "loading" not in figure
        }
    shown = ", ".join(f"{count} {what}" for what, count in usual.items())
    line = {
        "benchmark": "twin",
        **alternated(usual, given.rounds),
        "unit": "times the CPU time outside deciding under headroom",
        "peer": f"round-robin, with {shown}",
        **grown,
        "sizes": list(rows.values()),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
