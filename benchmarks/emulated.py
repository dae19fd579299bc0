"""The time of an emulated token, against another checkout: what a change costs runs without faults.

`python -m benchmarks.emulated FOLDER` replays the quick start on Mininet in pairs, a run of each checkout; the runs of
a pair take turns in being the first. A pair's figure is the ratio of the median token's time, this checkout's over the
other's. It prints the ratios' geometric mean with its 95 % interval (Student's t of the logarithms), and how many of
this checkout's runs were faithful; the last line is JSON. The other checkout needs only its sources: it is run by this
interpreter. It needs what an emulated run needs, and a host with nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.watch import PATIENCE_S, T_975, summed_up
from testbed.progress import progress_bar

ROOT = Path(__file__).resolve().parents[1]


def replay(checkout: Path, policy: str, tokens: int) -> dict[str, Any]:
    """The summary of one run by a checkout's program."""
    with tempfile.TemporaryDirectory(prefix="headroom-emulated-") as folder:
        command = [sys.executable, "-m", "testbed", "replay", str(checkout / "experiments/quickstart.yaml")]
        command += ["--policy", policy, "--tokens", str(tokens), "--accept-unfaithful", "--json", "--out", folder]
        done = subprocess.run(
            command, cwd=folder, env=os.environ | {"PYTHONPATH": str(checkout)}, capture_output=True, text=True,
            timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{checkout}: the run ended with exit code {done.returncode}: {done.stderr.strip()}")
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def main() -> None:
    """Print each pair, the mean with its interval, and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=10, choices=range(2, len(T_975) + 2), metavar="PAIRS")
    parser.add_argument("--policy", default="paper-search")
    parser.add_argument("--tokens", type=int, default=96)
    given = parser.parse_args()
    ratios: list[float] = []
    reasons: list[str] = []
    with progress_bar(True, given.rounds, "pairs") as done:
        for number in range(given.rounds):
            p50 = {}
            for mine in (False, True) if number % 2 else (True, False):
                summary = replay(ROOT if mine else given.other.resolve(), given.policy, given.tokens)
                p50[mine] = summary["token_latency_ms"]["p50"]
                if mine and not summary["verdict"]["ok"]:
                    reasons += summary["verdict"]["reasons"]
            ratios.append(p50[True] / p50[False])
            text = f"pair {number + 1}: {p50[True]:.2f} ms, the other {p50[False]:.2f} ms, ratio {ratios[-1]:.4f}"
            print(text, flush=True)
            done(number + 1)
    line = summed_up("emulated", "another checkout", ratios)
    print(json.dumps(line | {"unfaithful": reasons}))


if __name__ == "__main__":
    main()
