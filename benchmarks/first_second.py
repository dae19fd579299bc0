"""The first second of a command: what a user waits for before anything is computed, and with many runs.

`python -m benchmarks.first_second [--rounds N]` alternates commands of ours with the imports that they cannot do
without, each as a process of its own: a simulated run of 8 tokens with `import numpy, numba, msgspec`, and `testbed
--help` with `import click`. It then times `plot` of 80 runs of 25 devices and `runs` of 1,000 folders, which are links
to one simulated run. `--against FOLDER` also runs another checkout of this repository. The last line is JSON.
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

from benchmarks.rounds import ratios, told

ROOT = Path(__file__).resolve().parents[1]
SIMULATED = ("--backend", "sim")
IMPORTS, CLICK = "import numpy, numba, msgspec", "import click"
EXPERIMENTS = ("quickstart", "gpt2-star4")
FLEET = "medium-scale"  # 25 devices, 1000 tokens


def testbed(*arguments: str) -> list[str]:
    """The command line of a verb."""
    return [sys.executable, "-m", "testbed", *arguments]


def seconds(command: Sequence[str], checkout: Path = ROOT) -> float:
    """How long a command of a checkout takes; it must end well."""
    environment = dict(os.environ) | {"PYTHONPATH": str(checkout)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # or all sources would be compiled each time
    started = time.perf_counter()
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False, env=environment)
    taken = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{' '.join(command[1:])} ended with code {done.returncode}: {done.stderr.strip()}")
    return taken


def replayed(experiment: Path, runs: str) -> list[str]:
    """The command that simulates 8 tokens."""
    return testbed("replay", str(experiment), *SIMULATED, "--tokens", "8", "--out", runs)


def commands(folder: Path) -> dict[str, list[str]]:
    """The commands by name, in the order in which a round runs them."""
    runs = str(folder / "runs")
    replays = {f"replay {name}": replayed(ROOT / f"experiments/{name}.yaml", runs) for name in EXPERIMENTS}
    return {
        "imports": [sys.executable, "-c", IMPORTS],
        **replays,
        "click": [sys.executable, "-c", CLICK],
        "help": testbed("--help"),
        "plot": testbed("plot", str(folder / "plotted"), "--out", str(folder / "figures")),
        "runs": testbed("runs", str(folder / "listed")),
    }


def make_runs(folder: Path, plotted: int, listed: int) -> None:
    """Simulate one run of 25 devices and link it into the folders that `plot` and `runs` are given."""
    experiment = str(ROOT / "experiments" / f"{FLEET}.yaml")
    command = testbed("replay", experiment, *SIMULATED, "--policy", "round-robin", "--out", str(folder / "one"))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = list((folder / "one").glob("*/summary.json"))
    if not found:  # a run that ends out of memory is as good to plot
        raise SystemExit(f"the run of {FLEET} ended with code {done.returncode}: {done.stderr.strip()}")
    for name, count in (("plotted", plotted), ("listed", listed)):
        for number in range(count):
            shutil.copytree(found[0].parent, folder / name / f"{number:04}", copy_function=os.link)


def main() -> None:
    """Print a line for each round and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another checkout")
    parser.add_argument("--plotted", type=int, default=80, help="runs")
    parser.add_argument("--listed", type=int, default=1000, help="runs")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="headroom-first-") as place:
        folder = Path(place)
        make_runs(folder, given.plotted, given.listed)
        turns = {name: (command, ROOT) for name, command in commands(folder).items()}
        if given.against is not None:  # its quick start is another experiment
            there = given.against.resolve()
            turns["before"] = replayed(there / "experiments/quickstart.yaml", str(folder / "before")), there
        for name, (command, checkout) in turns.items():
            if name not in ("plot", "runs"):  # once unmeasured, so that compiled files and pages are there
                seconds(command, checkout)
        taken: dict[str, list[float]] = {name: [] for name in turns}
        for number in range(given.rounds):
            for name, (command, checkout) in list(turns.items())[:: -1 if number % 2 else 1]:
                taken[name].append(seconds(command, checkout))
            shown = ", ".join(f"{name} {found[-1]:.2f} s" for name, found in taken.items())
            print(f"round {number + 1}: {shown}", flush=True)
    line = {
        "benchmark": "first_second",
        "peer": f"`python -c '{IMPORTS}'`",
        "ratio": statistics.median(ratios(taken["replay quickstart"], taken["imports"])),
        "unit": "times as long for a simulated run of 8 tokens of the quick start",
        "rounds": given.rounds,
        "plotted": given.plotted,
        "listed": given.listed,
        "seconds": {name: told(found) for name, found in taken.items()},
        "help to click": told(ratios(taken["help"], taken["click"])),
    }
    for name in ("replay quickstart", "replay gpt2-star4", "before"):
        if name in taken:
            line[f"{name} to imports"] = told(ratios(taken[name], taken["imports"]))
    print(json.dumps(line))


if __name__ == "__main__":
    main()
