"""The traces that come with the package, and how each of them is made.

`RECIPES` holds their parameters. `python -m testbed.traces.bundled` writes the files again; they stay the same byte for
byte as long as neither this module nor `traces.generate` changes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from testbed.errors import ConfigError
from testbed.traces import generate, native
from testbed.traces.generate import MBIT, MIB
from testbed.traces.model import Trace

DATA = Path(__file__).parents[2] / "traces" / "data"


@dataclass(frozen=True)
class Recipe:
    """One bundled trace: a line that describes it, and the function that makes it."""

    summary: str
    make: Callable[[], Trace]


def _from_topology(trace: Trace) -> Trace:
    """The trace without its rows at time 0, so that the topology's values hold until the first change."""
    return replace(trace, changes=tuple(change for change in trace.changes if change.time_s > 0))


RECIPES: Mapping[str, Recipe] = {
    "link-collapse": Recipe(
        "the link of c falls to 20 Mbit/s at 40 and comes back to 50 Mbit/s at 72",
        lambda: _from_topology(
            generate.link_collapse(
                "link/c", rate_bps=100 * MBIT, fraction=0.2, at=40, recover_at=72, recover_fraction=0.5
            )
        ),
    ),
    "memory-squeeze": Recipe(
        "an app on b leaves 72 MiB at 48 and keeps the rest",
        lambda: _from_topology(
            generate.memory_squeeze("device/b", memory_bytes=176 * MIB, taken_bytes=104 * MIB, at=48)
        ),
    ),
    "board-squeeze": Recipe(
        "an app on b leaves 16 MiB at 48 and keeps the rest",
        lambda: _from_topology(generate.memory_squeeze("device/b", memory_bytes=40 * MIB, taken_bytes=24 * MIB, at=48)),
    ),
    "cellular-walk": Recipe(
        "the link of b wanders between about 10 and 100 Mbit/s, a step every 8",
        lambda: generate.cellular_walk(
            "link/b",
            states_bps=(10 * MBIT, 25 * MBIT, 50 * MBIT, 75 * MBIT, 100 * MBIT),
            length=96,
            step=8,
            seed=11,
        ),
    ),
    "cpu-contention": Recipe(
        "an app on d leaves 40 % of its compute and streaming rates from 32 to 64",
        lambda: generate.cpu_contention(
            "device/d", compute_flops=6e9, streaming_Bps=1.5e9, share=0.4, at=32, duration=32
        ),
    ),
    "outage": Recipe(
        "the link of b passes nothing from 30 to 33",
        lambda: generate.outage("link/b", rate_bps=50 * MBIT, at=30, duration=3),
    ),
}


def path_of(name: str) -> Path:
    """The file of a bundled trace; raises ConfigError that lists the bundled traces."""
    if name not in RECIPES:
        raise ConfigError(f"{name!r} is not a bundled trace: there are {', '.join(sorted(RECIPES))}")
    return DATA / f"{name}.csv"


def write(folder: Path = DATA) -> list[Path]:
    """Write every bundled trace to `folder` and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, recipe in RECIPES.items():
        path = folder / f"{name}.csv"
        native.save(recipe.make(), path)
        paths.append(path)
    return paths


def main() -> None:
    """Run `python -m testbed.traces.bundled [--out DIR]`."""
    parser = argparse.ArgumentParser(
        prog="python -m testbed.traces.bundled", description="Write the bundled traces again."
    )
    parser.add_argument("--out", type=Path, default=DATA, help="folder to write to (default: %(default)s)")
    for path in write(parser.parse_args().out):
        print(path)


if __name__ == "__main__":
    main()
