"""Run every benchmark and write docs/benchmarks.md: `python -m benchmarks.page [--rounds N] [--against FOLDER]`.

Each part is a program in a process of its own. Some let their ways take turns for so many rounds; the others run that
often. The page gives the median and the range of each figure in a program's JSON line, and the machine. `--keep FOLDER`
keeps the lines, a file for each part, and a part whose file is there is not measured again: so the command can be
stopped and repeated. `--against FOLDER`, another checkout of this repository, is measured in turn where a program can.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.results.store import machine


@dataclass(frozen=True)
class Part:
    """A benchmark program and how it is run for the page."""

    program: str
    title: str
    options: tuple[str, ...] = ()
    small: tuple[str, ...] | None = None  # options of a trial, if others
    takes_turns: bool = False  # its own rounds, by an option
    against: str = ""  # the option that names another checkout; "." is an argument without an option
    most_rounds: int = 5
    needs: str = ""  # a module that is in none of our extras

    def command(self, rounds: int, against: Path | None, small: bool) -> list[str]:
        """The command line."""
        command = ["-m", f"benchmarks.{self.program}", *(self.small if small and self.small else self.options)]
        if self.takes_turns:
            command += ["--rounds", str(rounds)]
        if self.against and against is not None:
            command += [str(against)] if self.against == "." else [self.against, str(against)]
        return command


# In order of importance, since a host is quiet only for so long.
PARTS = {
    "hop": Part(
        "hop", "One message from worker to worker", ("--hops", "1000"), ("--hops", "100"), True, "--against",
    ),
    "decode": Part(
        "decode", "A token of GPT-2, split over devices", ("--tokens", "16"), ("--tokens", "4"), True, "--against",
    ),
    "first_second": Part(
        "first_second", "The first second of a command", (), ("--plotted", "2", "--listed", "10"), True, "--against",
    ),
    "policy": Part(
        "policy", "What a decision takes", ("--limit", "15", "--shards", "1"), ("--size", "5", "--shards", "1"), True,
        "--against",
    ),
    "twin": Part("twin", "How the simulation grows", (), ("--small",), True),
    "against": Part(
        "against", "CPU time of deciding and simulating", ("--turns", "3", "--simulations", "3"),
        ("--turns", "1", "--simulations", "1"), False, ".", 1,
    ),
    "decisions": Part(
        "decisions", "How good decisions are", ("--instances", "40"), ("--instances", "2"), False, ".", 1
    ),
    "watch": Part("watch", "Watching a run", (), ("--tokens", "16"), True),
    "spawn": Part("spawn", "Starting devices", takes_turns=True, most_rounds=3),
    "scale": Part("scale", "Many devices", most_rounds=1),
    "shaping": Part("shaping", "Changing a link's rate", most_rounds=3),
    "replay": Part("replay", "Replaying rates", ("--rounds", "1"), most_rounds=1),
    "kernels": Part("kernels", "The decoder's products", most_rounds=3),
    "smollm2": Part(
        "smollm2", "SmolLM2 in one process", ("--rounds", "5"), ("--rounds", "1", "--tokens", "4", "--timed", "4"),
        most_rounds=1,
    ),
    "llama_cpp": Part("llama_cpp", "SmolLM2 by llama.cpp", most_rounds=1, needs="llama_cpp"),
}  # fmt: skip
INTRODUCTION = """
Each program and its peer were measured in the same run, in alternating rounds; figures are medians over the rounds,
with their range. If another checkout is compared, it is commit 5a73be0, called *theirs* or *before*.

Read the ratios, not the milliseconds: the same programs took 1.4 to 3.3 times as long on another day. A hop
between two blocking processes in C took 4 µs in some rounds and ten times as long in others, perhaps depending on
whether they shared a core, so comparisons with it range widely.
""".strip()
# What is asked of a benchmark first: part, figure, and what it says.
SUMMARY = (
    ("hop", "native to theirs", "a message between native workers, against before"),
    ("hop", "paced to theirs", "a message between paced workers, against before"),
    ("decode", "gloo on 4 to ours", "a token of GPT-2 on 4 devices by gloo's split in torch, against ours"),
    ("decode", "ours on 4 to sockets on 4", "ours on 4 devices, against plain sockets with the same operations"),
    ("decode", "ours on 4 to theirs on 4", "ours on 4 devices, against before"),
    ("decode", "ours on 2 to single", "ours on 2 devices, against our single process"),
    ("decode", "ours on 2 to theirs on 2", "ours on 2 devices, against before, which computed by torch"),
    ("first_second", "replay quickstart to imports", "8 simulated tokens of the quick start, against imports"),
    ("first_second", "replay gpt2-star4 to imports", "8 simulated tokens of `gpt2-star4`, against imports"),
    ("first_second", "before to imports", "8 simulated tokens of `gpt2-star4` before, against imports"),
    ("policy", "to theirs: paper-search 25 of gpt2 devices 1 shards: later decisions",
     "a later decision of `paper-search`, 25 devices, 12 layers and heads, against before"),
    ("policy", "to theirs: paper-search 25 devices 1 shards: later decisions",
     "a later decision of `paper-search`, 25 devices, 32 layers and heads, against before"),
    ("policy", "to theirs: headroom 200 devices 1 shards: later decisions",
     "a later decision of `headroom`, 200 devices, 32 layers and heads, against before"),
    ("twin", "headroom to round-robin outside deciding",
     "simulating outside deciding, `headroom` against `round-robin`: 100 devices, 32 layers, 1000 tokens"),
    ("against", "replay --backend sim of medium-scale", "simulating 25 devices and 1000 tokens, against before"),
)  # fmt: skip
HIDDEN = ("ratio", "rounds", "turns", "done", "median", "least", "most")
PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"


def measure(part: Part, rounds: int, against: Path | None, small: bool) -> list[dict[str, Any]]:
    """The last line of a part's program, of every round that the program does not do itself; none if it fails."""
    rounds = min(rounds, part.most_rounds)
    command = part.command(rounds, against, small)
    said = " ".join(["python", *command]).replace(str(against), "FOLDER")
    environment = dict(os.environ)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # or all sources would be compiled each time
    found: list[dict[str, Any]] = []
    for _ in range(1 if part.takes_turns else rounds):
        done = subprocess.run(
            [sys.executable, *command], stdout=subprocess.PIPE, text=True, check=False, env=environment
        )
        if done.returncode:
            print(f"`{said}` ended with code {done.returncode}", file=sys.stderr, flush=True)
            return []
        found.append(json.loads(done.stdout.strip().splitlines()[-1]) | {"command": said, "done": rounds})
    return found


Spread = tuple[float, float, float]  # median, least, most


def _figure(value: float) -> str:
    return f"{value:,.4g}" if abs(value) < 1e5 else f"{value:,.0f}"


def _shown(values: list[Spread]) -> str:
    """The median of the rounds' medians, and the whole range."""
    median = _figure(statistics.median(one[0] for one in values))
    low, high = _figure(min(one[1] for one in values)), _figure(max(one[2] for one in values))
    return median + ("" if low == high else f" ({low} to {high})")


def _figures(line: dict[str, Any], above: str = "") -> Iterator[tuple[str, Spread]]:
    """All numbers of a JSON line except the ratio, by key; a number inside an object has both keys."""
    if {"median", "least", "most"} <= set(line):
        yield above.removesuffix(": "), (line["median"], line["least"], line["most"])
    for key, value in line.items():
        if isinstance(value, dict):
            yield from _figures(value, f"{above}{key}: ")
        elif isinstance(value, int | float) and not isinstance(value, bool) and key not in HIDDEN:
            yield above + key, (value, value, value)


def summary(measured: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The lines of a table of what is asked first."""
    rows = []
    for part, key, what in SUMMARY:
        found = [
            figures[key] for figures in (dict(_figures(line)) for line in measured.get(part, ())) if key in figures
        ]
        if found:
            rows.append(f"| {what} | {_shown(found)} |")
    return ["| times as long | median (range) |", "| --- | --- |", *rows, ""] if rows else []


def section(name: str, lines: list[dict[str, Any]]) -> str:
    """The part of the page on one benchmark."""
    first = lines[0]
    ratio = _shown([(line["ratio"],) * 3 for line in lines if "ratio" in line])
    rounds = "one round" if first["done"] == 1 else f"{first['done']} rounds"
    text = [f"## {PARTS[name].title}", "", f"**{ratio}** {first['unit']}, against {first['peer']}; {rounds}.", ""]
    found = [dict(_figures(line)) for line in lines]
    known = sorted((key for key in found[0] if all(key in each for each in found)), key=lambda key: " to " not in key)
    if known:
        text += ["| figure | median (range) |", "| --- | --- |"]
        text += [f"| {key} | {_shown([each[key] for each in found])} |" for key in known]
    if "sizes" in first:
        keys = [key for key, value in first["sizes"][0].items() if isinstance(value, int | float)]
        text += [*([""] if known else []), "| " + " | ".join(keys) + " |", "|" + " --- |" * len(keys)]
        for index in range(len(first["sizes"])):
            cells = [_shown([(line["sizes"][index][key],) * 3 for line in lines]) for key in keys]
            text.append("| " + " | ".join(cells) + " |")
    return "\n".join([*text, "", f"`{first['command']}`", ""])


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another checkout")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where measured lines are kept and looked for")
    parser.add_argument("--minutes", type=float, default=600.0, help="after so many, no other part is begun")
    parser.add_argument("--small", action="store_true", help="small sizes, to try the command")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("names", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    given = parser.parse_args()
    unknown = set(given.names) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if given.against is not None:
        given.against = given.against.resolve()
    until = time.monotonic() + 60 * given.minutes
    with tempfile.TemporaryDirectory(prefix="headroom-page-") as folder:
        kept = given.keep or Path(folder)
        kept.mkdir(parents=True, exist_ok=True)
        for name in given.names or [name for name, part in PARTS.items() if not part.needs or find_spec(part.needs)]:
            file = kept / f"{name}.json"
            if file.exists() or time.monotonic() > until:
                continue
            print(f"{name} …", file=sys.stderr, flush=True)
            began = time.monotonic()
            lines = measure(PARTS[name], given.rounds, given.against, given.small)
            if lines:  # a part that failed is measured the next time
                file.write_text(json.dumps(lines))
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        _write(kept, given.page)


def _write(kept: Path, page: Path) -> None:
    files = [(name, kept / f"{name}.json") for name in PARTS]
    measured = {name: json.loads(file.read_text()) for name, file in files if file.exists()}
    day = time.strftime("%Y-%m-%d", time.gmtime(max(file.stat().st_mtime for _, file in files if file.exists())))
    parts = [
        "# Benchmarks",
        "",
        f"Written by `python -m benchmarks.page` from what was measured on {day}: {machine()}.",
        INTRODUCTION,
        "",
    ]
    parts += summary(measured)
    parts += [section(name, lines) for name, lines in measured.items()]
    missing = [f"`{name}`" for name in PARTS if name not in measured]
    if missing:
        parts += [f"Not measured on this machine yet: {', '.join(missing)}.", ""]
    page.write_text("\n".join(parts))
    print(page)


if __name__ == "__main__":
    main()
