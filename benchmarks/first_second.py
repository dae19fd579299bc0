"""The first second of a command: what a user waits for before anything is computed, and with many runs.

`python -m benchmarks.first_second [--rounds N]` alternates commands of ours with the imports that they cannot do
without, each as a process of its own: a simulated run of 8 tokens with `import numpy, numba, msgspec`, and `testbed
--help` with `import click`. It then times `plot` of 80 runs of 25 devices and `runs` of 1,000 folders, which are links
to one simulated run. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SIMULATED = ("--backend", "sim")
IMPORTS, CLICK = "import numpy, numba, msgspec", "import click"
PLOTTED, LISTED = 80, 1000  # runs
FLEET = "medium-scale"  # 25 devices, 1000 tokens


def testbed(*arguments: str) -> list[str]:
    """The command line of a verb."""
    return [sys.executable, "-m", "testbed", *arguments]


def seconds(command: Sequence[str]) -> float:
    """How long a command takes; it must end well."""
    started = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    taken = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{' '.join(command[1:])} ended with code {done.returncode}: {done.stderr.strip()}")
    return taken


def commands(folder: Path) -> dict[str, list[str]]:
    """The commands by name, in the order in which a round runs them."""
    runs = str(folder / "runs")
    replays = {
        f"replay {name}": testbed(
            "replay", str(ROOT / "experiments" / f"{name}.yaml"), *SIMULATED, "--tokens", "8", "--out", runs
        )
        for name in ("quickstart", "gpt2-star4")
    }
    return {
        "imports": [sys.executable, "-c", IMPORTS],
        **replays,
        "click": [sys.executable, "-c", CLICK],
        "help": testbed("--help"),
        "plot": testbed("plot", str(folder / "plotted"), "--out", str(folder / "figures")),
        "runs": testbed("runs", str(folder / "listed")),
    }


def make_runs(folder: Path) -> None:
    """Simulate one run of 25 devices and link it into the folders that `plot` and `runs` are given."""
    experiment = str(ROOT / "experiments" / f"{FLEET}.yaml")
    command = testbed("replay", experiment, *SIMULATED, "--policy", "round-robin", "--out", str(folder / "one"))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = list((folder / "one").glob("*/summary.json"))
    if not found:  # a run that ends out of memory is as good to plot
        raise SystemExit(f"the run of {FLEET} ended with code {done.returncode}: {done.stderr.strip()}")
    for name, count in (("plotted", PLOTTED), ("listed", LISTED)):
        for number in range(count):
            shutil.copytree(found[0].parent, folder / name / f"{number:04}", copy_function=os.link)


def main() -> None:
    """Print a line for each round and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="headroom-first-") as place:
        folder = Path(place)
        make_runs(folder)
        listed = commands(folder)
        for command in list(listed.values())[:-2]:  # once unmeasured, so that compiled files and pages are there
            seconds(command)
        taken: dict[str, list[float]] = {name: [] for name in listed}
        for number in range(rounds):
            for name, command in listed.items():
                taken[name].append(seconds(command))
            shown = ", ".join(f"{name} {found[-1]:.2f} s" for name, found in taken.items())
            print(f"round {number + 1}: {shown}", flush=True)
    medians = {name: statistics.median(found) for name, found in taken.items()}
    print(
        json.dumps(
            {
                "benchmark": "first_second",
                "peer": f"`python -c '{IMPORTS}'`",
                "ratio": medians["replay quickstart"] / medians["imports"],
                "unit": "times as long for a simulated run of 8 tokens of the quick start",
                "rounds": rounds,
                "gpt2_star4_ratio": medians["replay gpt2-star4"] / medians["imports"],
                "help_ratio_to_click": medians["help"] / medians["click"],
                "median_s": medians,
                "least_s": {name: min(found) for name, found in taken.items()},
                "most_s": {name: max(found) for name, found in taken.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
