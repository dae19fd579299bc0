"""The experiments, sweeps, topologies and traces that come with the package, by name wherever a path is taken.

A path that exists always wins. This module knows folders and names, but not what is in a file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from testbed.errors import ConfigError
from testbed.strict_yaml import nearest, suggest

Kind = Literal["experiment", "sweep", "topology", "trace"]

ROOT = Path(__file__).parents[1]
CATALOGUE = "catalogue"  # of boards: it lies beside the topologies and is none
SWEEP = "sweep-"  # how the names of sweeps begin, which lie beside the experiments


@dataclass(frozen=True)
class Place:
    """Where the files of one kind are, and how their names end."""

    folder: Path
    suffix: str


PLACES: dict[Kind, Place] = {
    "experiment": Place(ROOT / "experiments", ".yaml"),
    "sweep": Place(ROOT / "experiments", ".yaml"),
    "topology": Place(ROOT / "topologies", ".yaml"),
    "trace": Place(ROOT / "traces" / "data", ".csv"),
}


def bundled(kind: Kind) -> dict[str, Path]:
    """The files of a kind by name, in the order of their names."""
    place = PLACES[kind]
    found = {path.stem: path for path in sorted(place.folder.glob(f"*{place.suffix}"))}
    if kind in ("experiment", "sweep"):
        return {name: path for name, path in found.items() if name.startswith(SWEEP) == (kind == "sweep")}
    return {name: path for name, path in found.items() if name != CATALOGUE}


def find_file(kind: Kind, name: str | Path, base: Path = Path(), where: str = "") -> Path:
    """The file that a path, relative to `base`, or the name of a bundled file means.

    Raises ConfigError that begins with `where` and says what was probably meant.
    """
    path = Path(os.path.normpath(base / name))
    if (path / "manifest.json").is_file():
        raise ConfigError(f"{path} is a run's folder, and holds no file that describes the {kind}")
    if os.path.lexists(path):
        return path
    known = bundled(kind)
    if str(name) in known:
        return known[str(name)]
    begin = f"{where} is {path}, but there" if where else f"{path}: there"
    raise ConfigError(f"{begin} is no such file{_hint(kind, str(name), path, known)}")


def _hint(kind: Kind, name: str, path: Path, known: dict[str, Path]) -> str:
    """What was probably meant: another kind of file, a file beside it, or a bundled name."""
    others: tuple[tuple[Kind, str], ...] = (("experiment", "replay"), ("sweep", "sweep"))
    for other, verb in others:
        if kind in ("experiment", "sweep") and kind != other and name in bundled(other):
            return f"; {name} is a bundled {other}: `testbed {verb} {name}`"
    if kind == "experiment" and name in bundled("topology"):
        return f"; {name} is a bundled topology: `testbed replay quickstart --set topology={name}`"
    for other in PLACES:
        if kind != other and name in bundled(other):
            return f"; {name} is a bundled {other}, but a {kind} is wanted: choose from {', '.join(known)}"
    if Path(name).stem in known:
        return f"; did you mean {Path(name).stem!r}, which is bundled?"
    beside = []
    if path.parent.is_dir():
        beside = [str(Path(name).parent / one.name) for one in path.parent.glob(f"*{PLACES[kind].suffix}")]
    near = nearest(name, [*beside, *known]) or nearest(Path(name).stem, known)
    return f"; did you mean {near!r}?" if near else f" and no bundled {kind} of that name{suggest(name, known)}"
