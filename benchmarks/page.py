"""Run every benchmark and write docs/benchmarks.md: `python -m benchmarks.page [--rounds N]`.

Each program runs several times as a process of its own. The page gives the median and the range of each figure in its
JSON line, and the machine. `--keep FOLDER NAME…` measures only some programs and keeps their lines in the folder; the
page says which are missing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.results.store import machine

NAMES = (
    "shaping", "replay", "spawn", "scale", "policy", "twin", "first_second", "kernels", "hop", "decode", "smollm2",
    "llama_cpp",
)  # fmt: skip
PEERS = {"llama_cpp": "llama_cpp"}  # modules that are in none of our extras; without them a program is left out
OPTIONS = {"policy": ("--rounds", "1", "--limit", "12")}  # policies whose eight decisions take longer are left out
PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"


def measure(name: str) -> dict[str, Any]:
    """The last line of one benchmark program."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *OPTIONS.get(name, ())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"benchmarks.{name} ended with code {done.returncode}: {done.stderr.strip()}")
    line: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return line


def _figure(value: float) -> str:
    return f"{value:,.4g}" if abs(value) < 1e5 else f"{value:,.0f}"


def _spread(values: list[float]) -> str:
    low, high = _figure(min(values)), _figure(max(values))
    return _figure(statistics.median(values)) + ("" if low == high else f" ({low} to {high})")


def _figures(line: dict[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """All numbers of a JSON line except the ratio, by key; a number inside an object has both keys."""
    for key, value in line.items():
        if isinstance(value, dict):
            yield from _figures(value, f"{above}{key}: ")
        elif isinstance(value, int | float) and not isinstance(value, bool) and key not in ("ratio", "rounds"):
            yield above + key, value


def _rounds(count: int) -> str:
    return "one round" if count == 1 else f"{count} rounds"


def section(name: str, lines: list[dict[str, Any]]) -> str:
    """The part of the page on one benchmark."""
    first = lines[0]
    ratio = _spread([line["ratio"] for line in lines if "ratio" in line])
    text = [f"## {name}", "", f"**{ratio}** {first['unit']}, against {first['peer']}; {_rounds(len(lines))}.", ""]
    found = [dict(_figures(line)) for line in lines]
    known = [key for key in found[0] if all(key in each for each in found)]
    if known:
        text += ["| figure | median (range) |", "| --- | --- |"]
        text += [f"| {key} | {_spread([each[key] for each in found])} |" for key in known]
    if "sizes" in first:
        keys = [key for key, value in first["sizes"][0].items() if isinstance(value, int | float)]
        text += [*([""] if known else []), "| " + " | ".join(keys) + " |", "|" + " --- |" * len(keys)]
        for index in range(len(first["sizes"])):
            cells = [_spread([line["sizes"][index][key] for line in lines]) for key in keys]
            text.append("| " + " | ".join(cells) + " |")
    return "\n".join([*text, "", f"`{' '.join(('python', '-m', f'benchmarks.{name}', *OPTIONS.get(name, ())))}`", ""])


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where measured lines are kept and looked for")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; default: all")
    options = parser.parse_args()
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    with tempfile.TemporaryDirectory(prefix="headroom-page-") as folder:
        kept = options.keep or Path(folder)
        kept.mkdir(parents=True, exist_ok=True)
        for name in options.names or [name for name in NAMES if name not in PEERS or find_spec(PEERS[name])]:
            _measure_rounds(name, options.rounds, kept / f"{name}.json")
        there = [name for name in NAMES if (kept / f"{name}.json").exists()]
        _write({name: json.loads((kept / f"{name}.json").read_text()) for name in there})


def _measure_rounds(name: str, rounds: int, file: Path) -> None:
    lines = []
    for number in range(rounds):
        print(f"{name}: round {number + 1} of {rounds} …", file=sys.stderr)
        lines.append(measure(name))
    file.write_text(json.dumps(lines))


def _write(measured: dict[str, list[dict[str, Any]]]) -> None:
    today = time.strftime("%Y-%m-%d", time.gmtime())
    parts = [
        "# Benchmarks",
        "",
        f"Written by `python -m benchmarks.page` on {today}: {machine()}.",
        "Each ratio has its peer in the same run; figures are medians over the rounds, with their range.",
        "",
    ]
    parts += [section(name, lines) for name, lines in measured.items()]
    missing = [f"`python -m benchmarks.{name}`" for name in NAMES if name not in measured]
    if missing:
        parts += [f"Not measured on this machine yet: {', '.join(missing)}.", ""]
    PAGE.write_text("\n".join(parts))
    print(PAGE)


if __name__ == "__main__":
    main()
