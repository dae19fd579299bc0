"""Stores the data of results, how they were obtained, and the parts of an unfinished collection.

A result is a tidy table `docs/results/NAME.parquet` and a file `NAME.json` with command, date, commit, machine,
seconds, seeds, whether it was emulated, simulated or predicted, and notes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "docs" / "results"
SOURCES = ("experiments", "testbed", "topologies", "traces")  # the sources of the measured program
# Names of a policy and of its class: in older data, and today.
FORMER_NAMES = {"resource-aware": "paper-search", "ResourceAware": "PaperSearch"}
How = dict[str, Any]


def save(name: str, frame: pd.DataFrame, how: Mapping[str, Any]) -> Path:
    """Write the table of a result and how it was obtained, each in one step; returns the Parquet file."""
    DATA.mkdir(parents=True, exist_ok=True)
    file, half = DATA / f"{name}.parquet", DATA / f".{name}.part"
    frame.to_parquet(half, index=False, compression="zstd")
    half.replace(file)
    half.write_text(json.dumps(how, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    half.replace(file.with_suffix(".json"))
    return file


def load(name: str) -> tuple[pd.DataFrame, How]:
    """The table of a result and how it was obtained; raises FileNotFoundError that says how to collect it."""
    file = DATA / f"{name}.parquet"
    if not file.exists():
        raise FileNotFoundError(f"{file} is not there: collect it with `script/results --collect {name}`")
    how: How = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    frame = pd.read_parquet(file)
    present = frame["policy"]
    for former, today in FORMER_NAMES.items():
        present = present.str.replace(former, today)
    if (present != frame["policy"]).any():
        how["notes"] = [*how["notes"], "these data call `paper-search` by its former name, `resource-aware`"]
    return frame.assign(policy=present), how


def how_obtained(
    command: str, kind: str, seconds: float, seeds: Sequence[int], notes: Sequence[str] = (), **more: Any
) -> How:
    """The description of a result for `save`: `kind` is emulated, simulated or predicted.

    `seconds` is the computing time of all parts, and `more` holds further keys for the section.
    """
    return {
        "command": command,
        "kind": kind,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": commit(),
        "machine": machine(),
        "seconds": round(seconds, 1),
        "seeds": list(seeds),
        "notes": list(notes),
        **more,
    }


def obtained(how: Mapping[str, Any]) -> str:
    """The line below each table and figure: what made its data, when and where."""
    text = (
        f"*{how['kind'].capitalize()}. Data: `{how['command']}` on {how['date']}, program of commit {how['commit']}, "
    )
    text += f"{how['seconds'] / 60:.0f} minutes, {how['machine']}.*"
    notes = list(how["notes"])
    if how.get("runs_missing"):
        notes.append(f"{how['runs_missing']} of the planned runs have not been made yet; the command makes them")
    return "\n".join([text, "", *(f"- {note}" for note in notes)]).rstrip()


@lru_cache(maxsize=1)
def commit() -> str:
    """The commit that last changed the sources of a result, followed by `+` if files differ from it."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *words, "--", *SOURCES], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    return (git("log", "-1", "--format=%h", "--abbrev=10") or "unknown") + ("+" if changed else "")


def machine() -> str:
    """A line that describes the host."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 2**20
    system = f"Linux {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, {system}"


class Parts:
    """The finished parts of a collection: lists of rows by key. A repeated collection computes only missing parts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def find(self, key: str) -> list[dict[str, Any]] | None:
        """The rows of a finished part, or None."""
        file = self.folder / f"{key}.json"
        if not file.exists():
            return None
        rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["rows"]
        return rows

    def put(self, key: str, rows: Sequence[Mapping[str, Any]], seconds: float) -> None:
        """Store the rows of a part and their computing time in one step."""
        half = self.folder / f".{key}.part"
        part = {"seconds": seconds, "commit": commit(), "rows": list(rows)}
        half.write_text(json.dumps(part), encoding="utf-8")
        half.replace(self.folder / f"{key}.json")

    def seconds(self) -> float:
        """The computing time of all finished parts in seconds."""
        return float(sum(part["seconds"] for part in self._all()))

    def commits(self) -> str:
        """The commits that made the finished parts, in words."""
        return " and ".join(sorted({part["commit"] for part in self._all() if "commit" in part}))

    def _all(self) -> list[dict[str, Any]]:
        return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(self.folder.glob("*.json"))]


def arguments(name: str, doc: str | None) -> argparse.ArgumentParser:
    """The options of all collectors."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.results.{name}", description=doc)
    parser.add_argument("--parts", type=Path, default=ROOT / "runs" / "results" / name, metavar="DIR",
                        help="where finished parts are kept (%(default)s)")  # fmt: skip
    parser.add_argument("--seconds", type=float, metavar="S",
                        help="begin no part after so long; what is there is saved all the same")  # fmt: skip
    parser.add_argument("--share", nargs=2, type=int, default=(1, 1), metavar=("I", "N"),
                        help="compute every N-th part from the I-th on: processes share the work")  # fmt: skip
    return parser


def share_of(parts: Sequence[Any], options: argparse.Namespace) -> list[Any]:
    """The parts that this process computes."""
    first, every = options.share
    return list(parts[first - 1 :: every])


@contextmanager
def bar(total: int, label: str) -> Iterator[Any]:
    """A progress bar on a terminal; call the result with the number of finished parts."""
    from testbed.progress import progress_bar

    with progress_bar(True, total, label) as told:
        yield told


def collect(
    cells: Sequence[Any],
    key_of: Callable[[Any], str],
    rows_of: Callable[[Any], Iterable[dict[str, Any]]],
    options: argparse.Namespace,
    name: str,
) -> Parts:
    """Compute the parts of these cells that are missing, in order until the time is up; returns all parts."""
    parts, started = Parts(options.parts), time.monotonic()
    with bar(len(cells), name) as told:
        for number, cell in enumerate(cells):
            if parts.find(key_of(cell)) is None:
                begun = time.monotonic()
                if options.seconds is not None and begun - started > options.seconds:
                    break
                parts.put(key_of(cell), list(rows_of(cell)), time.monotonic() - begun)
            told(number + 1)
    return parts
