"""Run every benchmark and write docs/benchmarks.md: `python -m benchmarks.page [--rounds N]`.

Each program runs several times as a process of its own; the page gives the median and the range of every figure in
its JSON line, with the machine they were measured on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

NAMES = ("shaping", "replay", "spawn", "scale")
PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"


def measure(name: str) -> dict[str, Any]:
    """The last line of one benchmark program."""
    done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"benchmarks.{name} ended with code {done.returncode}: {done.stderr.strip()}")
    line: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return line


def machine() -> str:
    """One line on where this was measured."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 2**20
    system = f"Linux {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, {system}"


def _figure(value: float) -> str:
    return f"{value:,.4g}" if abs(value) < 1e5 else f"{value:,.0f}"


def _spread(values: list[float]) -> str:
    low, high = _figure(min(values)), _figure(max(values))
    return _figure(statistics.median(values)) + ("" if low == high else f" ({low} to {high})")


def section(name: str, lines: list[dict[str, Any]]) -> str:
    """One benchmark's part of the page."""
    first = lines[0]
    ratio = _spread([line["ratio"] for line in lines])
    text = [f"## {name}", "", f"**{ratio}** {first['unit']}, against {first['peer']}.", ""]
    text += ["| figure | median (range) |", "| --- | --- |"]
    for key, value in first.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or key in ("ratio", "rounds"):
            continue
        text.append(f"| {key} | {_spread([line[key] for line in lines])} |")
    if "sizes" in first:
        keys = [key for key, value in first["sizes"][0].items() if isinstance(value, int | float)]
        text += ["", "| " + " | ".join(keys) + " |", "|" + " --- |" * len(keys)]
        for index in range(len(first["sizes"])):
            cells = [_spread([line["sizes"][index][key] for line in lines]) for key in keys]
            text.append("| " + " | ".join(cells) + " |")
    return "\n".join([*text, "", f"`python -m benchmarks.{name}`", ""])


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    today = time.strftime("%Y-%m-%d", time.gmtime())
    parts = [
        "# Benchmarks",
        "",
        f"Written by `python -m benchmarks.page --rounds {rounds}` on {today}: {machine()}.",
        "Each ratio has its peer in the same run; figures are medians over the rounds, with their range.",
        "",
    ]
    for name in NAMES:
        lines = []
        for number in range(rounds):
            print(f"{name}: round {number + 1} of {rounds} …", file=sys.stderr)
            lines.append(measure(name))
        parts.append(section(name, lines))
    PAGE.write_text("\n".join(parts))
    print(PAGE)


if __name__ == "__main__":
    main()
