"""What watching costs a run: emulated runs of the quick start in pairs, one of each with `testbed watch` beside it.

`python -m benchmarks.watch` starts each run as a user would, and `testbed watch` in a terminal of its own, 200 x 60. A
pair's figure is the ratio of the median token's time, watched over not; the runs of a pair take turns in being the
first. It prints the ratios' geometric mean with its 95 % interval (Student's t of the logarithms); the last line is
JSON. It needs what an emulated run needs, and a host with nothing else to do.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import math
import os
import re
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.progress import progress_bar

COLUMNS, LINES = 200, 60
TOKEN = re.compile(rb"token (\d+) of \d+")
# The 97.5 % quantiles of Student's t with 1, 2, … degrees of freedom.
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
         2.120, 2.110, 2.101, 2.093)  # fmt: skip
PATIENCE_S = 300.0


@dataclass
class Watched:
    """What is known of a `testbed watch` after its end."""

    pictures: int = 0  # with another number of tokens than the one before
    last: int = -1  # the token that the last picture was of
    cpu_s: float = 0.0


def replay(folder: Path, policy: str, tokens: int, watched: bool) -> tuple[dict[str, Any], Watched]:
    """The summary of one run, and what watching it came to."""
    command = [sys.executable, "-m", "testbed", "replay", "quickstart", "--backend", "mininet", "--policy", policy]
    command += ["--tokens", str(tokens), "--accept-unfaithful", "--json", "--out", str(folder)]
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True, start_new_session=True) as run,
    ):
        if watched:
            with watching(_begun(folder, run)) as found:
                out, _ = run.communicate(timeout=PATIENCE_S)
                time.sleep(2.0)  # the end is seen, too
        else:
            found = Watched()
            out, _ = run.communicate(timeout=PATIENCE_S)
        said.seek(0)
        if run.returncode:
            raise SystemExit(f"the run ended with exit code {run.returncode}: {said.read().strip()}")
    summary: dict[str, Any] = json.loads(out)
    return summary, found


def _begun(folder: Path, run: subprocess.Popen[str]) -> Path:
    """The run's folder, as soon as it is there."""
    while run.poll() is None:
        found = list(folder.glob("*/manifest.json"))
        if found:
            return found[0].parent
        time.sleep(0.05)
    raise SystemExit(f"the run ended with exit code {run.returncode} before it began")


@contextmanager
def watching(folder: Path) -> Iterator[Watched]:
    """`testbed watch` in a terminal of its own, and what it had shown by the end of the block."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    command = [sys.executable, "-m", "testbed", "watch", str(folder)]
    environment = os.environ | {"TERM": "xterm-256color"}
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    found = Watched()

    def look() -> None:
        try:
            while written := os.read(ours, 65536):
                for number in TOKEN.findall(written):
                    found.pictures += int(number) != found.last
                    found.last = int(number)
        except OSError:  # the other end is closed
            pass

    reader = threading.Thread(target=look)
    reader.start()
    try:
        yield found
    finally:
        process.send_signal(signal.SIGTERM)
        _, _, used = os.wait4(process.pid, 0)
        process.returncode = 0
        found.cpu_s = used.ru_utime + used.ru_stime
        reader.join()
        os.close(ours)


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """The geometric mean and its 95 % interval."""
    logs = [math.log(ratio) for ratio in ratios]
    mean = statistics.mean(logs)
    half = T_975[len(logs) - 2] * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def summed_up(benchmark: str, peer: str, ratios: list[float]) -> dict[str, Any]:
    """Print the mean of the pairs with its interval; returns the line of JSON."""
    mean, low, high = interval(ratios)
    print(f"ratio {mean:.4f}, 95 % interval {low:.4f} to {high:.4f}")
    return {
        "benchmark": benchmark,
        "peer": peer,
        "ratio": mean,
        "unit": "times the median token's time",
        "ci95_low": low,
        "ci95_high": high,
        "pairs": len(ratios),
        "least": min(ratios),
        "most": max(ratios),
    }


def main() -> None:
    """Print each pair, the mean with its interval, and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, choices=range(2, len(T_975) + 2), metavar="PAIRS")
    parser.add_argument("--policy", default="paper-search")
    parser.add_argument("--tokens", type=int, default=96)
    given = parser.parse_args()
    ratios: list[float] = []
    cpu: list[float] = []
    pictures: list[int] = []
    faithful = 0
    with progress_bar(True, given.rounds, "pairs") as done:
        for number in range(given.rounds):
            p50 = {}
            for watched in (False, True) if number % 2 else (True, False):
                with tempfile.TemporaryDirectory(prefix="headroom-watch-") as folder:
                    summary, seen = replay(Path(folder), given.policy, given.tokens, watched)
                p50[watched] = summary["token_latency_ms"]["p50"]
                faithful += bool((summary.get("verdict") or {}).get("ok"))
                if watched:
                    if seen.last != given.tokens:
                        raise SystemExit(f"the last picture was of token {seen.last}, not of {given.tokens}")
                    cpu.append(seen.cpu_s)
                    pictures.append(seen.pictures)
            ratios.append(p50[True] / p50[False])
            print(
                f"pair {number + 1}: watched {p50[True]:.1f} ms, not {p50[False]:.1f} ms, ratio {ratios[-1]:.4f}; "
                f"{pictures[-1]} pictures, {cpu[-1]:.1f} s of CPU time",
                flush=True,
            )
            done(number + 1)
    line = summed_up("watch", "the same run, not watched", ratios)
    line |= {"watch_cpu_s": statistics.median(cpu), "pictures": statistics.median(pictures), "faithful_runs": faithful}
    print(json.dumps(line))


if __name__ == "__main__":
    main()
