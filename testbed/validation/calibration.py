"""Calibrates rates of boards and engines from rows of a single board, and looks up the rate of any pair.

A *kernel* is an engine in a version with a weight format. Each pair of a board and a kernel with rows of its own gets
its streaming rate from them. Where the logits have a kernel of their own and two models were measured, both rates
follow. Another pair takes the nearest: another version on the same board, a board with the same chip, or another
program.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import geometric_mean
from typing import Literal

from testbed.shape import ModelShape
from testbed.topologies.catalogue import boards as catalogue
from testbed.units import parse_bandwidth, parse_compute
from testbed.validation.assumptions import DEFAULT, Assumptions
from testbed.validation.engines import DLLAMA, Engine, engine_of
from testbed.validation.names import Board, Program

Provenance = Literal["same-board", "other-board", "source"]


@dataclass(frozen=True)
class Kernel:
    """What streams weights: an engine of a program, and a format."""

    program: str  # "dllama-0.3", "ollama", "llama.cpp", "llamafile"
    weights: str

    @classmethod
    def of(cls, program: Program, weights: str) -> Kernel:
        """The kernel of a program for a format."""
        return cls(engine_of(program).name if program.name == "dllama" else program.name, weights)

    @property
    def family(self) -> str:
        """`dllama` or `llama.cpp`, with the format."""
        return ("dllama" if self.program.startswith("dllama") else "llama.cpp") + " " + self.weights


@dataclass(frozen=True)
class Observed:
    """One row that calibrates: how long one token of a model took on one board."""

    line: int
    board: Board
    kernel: Kernel
    engine: Engine
    shape: ModelShape
    seconds: float
    layer_bytes: float  # as the kernel streams them, caches and rereads included
    logits_bytes: float
    prompt: bool = False  # tokens of a prompt instead, whose time is FLOPs
    flops: float = 0.0


@dataclass(frozen=True)
class Rate:
    """How fast a board streams weights with a kernel, and from where that is known."""

    streaming_Bps: float
    logits_factor: float  # how many times longer a byte of the logits takes
    provenance: Provenance
    story: str


@dataclass(frozen=True)
class Fit:
    """What the rows of one pair of board and kernel give."""

    Bps: float
    factor: float | None  # of the logits, where rows of two models tell
    rows: int


@dataclass
class Calibration:
    """The rates that rows of single boards give."""

    observed: tuple[Observed, ...]
    fits: dict[tuple[Board, Kernel], Fit] = field(default_factory=dict)
    compute: dict[tuple[str, str], float] = field(default_factory=dict)  # (board's family, kernel's family) -> FLOP/s
    logits_factor: float = 1.0  # the geometric mean of those that rows tell

    def rate(self, board: Board, kernel: Kernel, engine: Engine) -> Rate | None:
        """The rate of a board with a kernel; None if nothing is known of the board."""
        found = self._streaming(board, kernel)
        if found is None:
            return None
        Bps, provenance, story, fit = found
        factor = 1.0
        if engine.slow_logits:
            told = fit.factor if fit is not None else None
            factor = self.logits_factor if told is None else told
            story += "" if told is not None else f"; logits {factor:.1f} times slower a byte, the mean of other pairs"
        return Rate(Bps, factor, provenance, story)

    def _streaming(self, board: Board, kernel: Kernel) -> tuple[float, Provenance, str, Fit | None] | None:
        if (own := self.fits.get((board, kernel))) is not None:
            return own.Bps, "same-board", f"{own.rows} single-board rows of this board and engine", own
        versions = [name for name in _versions_near(kernel) if (board, name) in self.fits]
        if versions:
            near = self.fits[board, versions[0]]
            return near.Bps, "other-board", f"this board with {versions[0].program}", near
        sisters = [
            (other, name)
            for name in (kernel, *_versions_near(kernel))
            for other in _boards_near(board, self.fits)
            if (other, name) in self.fits
        ]
        if sisters:
            other, name = sisters[0]
            near = self.fits[other, name]
            ratio, count = self._board_ratio(board, other)
            story = f"{other} with {name.program}"
            story += f", times {ratio:.3f} as on rows of both ({count})" if count else ""
            return near.Bps * ratio, "other-board", story, near
        for other in (board, *_boards_near(board, self.fits)):
            others = [name for where, name in self.fits if where == other]
            if others:
                best = min(others, key=lambda name: (name.weights != kernel.weights, name.program, name.weights))
                ratio, count = self._kernel_ratio(kernel, best)
                story = f"{other} with {best.program} in {best.weights}"
                story += f", times {ratio:.3f} as on boards with rows of both ({count})" if count else ""
                return self.fits[other, best].Bps * ratio, "other-board", story, None
        listed = catalogue().get(board.family.replace(" ", "-"))
        if listed is not None:
            return parse_bandwidth(listed.values["streaming"]), "source", "the catalogue's streaming rate", None
        return None

    def _board_ratio(self, board: Board, other: Board) -> tuple[float, int]:
        """How much faster `board` is than `other` where both ran the same model with the same program and format."""
        ratios = _common(
            self.observed, lambda one: one.board, board, other, lambda one: (one.kernel, one.shape.name, one.prompt)
        )
        return (geometric_mean(ratios), len(ratios)) if ratios else (1.0, 0)

    def _kernel_ratio(self, kernel: Kernel, other: Kernel) -> tuple[float, int]:
        """How much faster a kernel of one family streams than that of another, on boards with rows of both."""
        ratios = []
        for board in {where for where, _ in self.fits}:
            first = [
                fit.Bps for (where, name), fit in self.fits.items() if (where, name.family) == (board, kernel.family)
            ]
            second = [fit.Bps for (where, name), fit in self.fits.items() if (where, name) == (board, other)]
            if first and second:
                ratios.append(geometric_mean(first) / geometric_mean(second))
        return (geometric_mean(ratios), len(ratios)) if ratios else (1.0, 0)

    def provenance(self) -> list[dict[str, object]]:
        """A row for each pair of board and kernel that has rows of its own: its rates, and the lines of those rows."""
        return [
            {
                "board": str(board), "engine": kernel.program, "format": kernel.weights, "streaming_Bps": fit.Bps,
                "logits_factor": fit.factor,
                "lines": [one.line for one in self.observed if (one.board, one.kernel) == (board, kernel)],
            }
            for (board, kernel), fit in self.fits.items()
        ]  # fmt: skip

    def compute_flops(self, board: Board, kernel: Kernel) -> float:
        """FLOP/s, from rows that tell how fast a prompt is read, else from the catalogue; infinite if unknown."""
        told = self.compute.get((board.family, kernel.family))
        listed = catalogue().get(board.family.replace(" ", "-"))
        if told is not None:
            return told
        return parse_compute(listed.values["compute"]) if listed is not None else math.inf


def calibrate(observed: Iterable[Observed], assumptions: Assumptions = DEFAULT) -> Calibration:
    """The rates that follow from rows of single boards. It sees nothing else."""
    rows = tuple(observed)
    found = Calibration(rows)
    groups: dict[tuple[Board, Kernel], list[Observed]] = {}
    for one in rows:
        if not one.prompt:
            groups.setdefault((one.board, one.kernel), []).append(one)
    solved = {pair: _solve(of) for pair, of in groups.items() if of[0].engine.slow_logits}
    factors = [factor for _, factor in filter(None, solved.values())]
    found.logits_factor = assumptions.logits_factor or (geometric_mean(factors) if factors else 1.0)
    for pair, of in groups.items():
        own = solved.get(pair)
        factor = (own[1] if own else found.logits_factor) if of[0].engine.slow_logits else 1.0
        rates = [(one.layer_bytes + factor * one.logits_bytes) / one.seconds for one in of]
        Bps = 1 / own[0] if own else geometric_mean(rates)
        found.fits[pair] = Fit(Bps, own[1] if own else None, len(of))
    prompts: dict[tuple[str, str], list[float]] = {}
    for one in rows:
        if one.prompt:
            prompts.setdefault((one.board.family, one.kernel.family), []).append(one.flops / one.seconds)
    found.compute = {pair: geometric_mean(each) for pair, each in prompts.items()}
    return found


def _solve(rows: Sequence[Observed]) -> tuple[float, float] | None:
    """(seconds per byte, times longer for a byte of the logits) by least squares of relative errors; None if unsure."""
    if len({one.shape.name for one in rows}) < 2:
        return None
    x = [(one.layer_bytes / one.seconds, one.logits_bytes / one.seconds) for one in rows]
    aa, ab, bb = (sum(p[i] * p[j] for p in x) for i, j in ((0, 0), (0, 1), (1, 1)))
    a, b = sum(p[0] for p in x), sum(p[1] for p in x)
    determinant = aa * bb - ab * ab
    if determinant <= 1e-9 * aa * bb:
        return None
    first, second = (a * bb - b * ab) / determinant, (aa * b - ab * a) / determinant
    return (first, second / first) if first > 0 and second > 0 else None


def _common(
    rows: Iterable[Observed], of: Callable[[Observed], object], one: object, other: object,
    same: Callable[[Observed], object],
) -> list[float]:  # fmt: skip
    """Ratios of speed between `one` and `other`, for each thing that rows of both have in common."""
    times: dict[object, tuple[list[float], list[float]]] = {}
    for row in rows:
        if of(row) in (one, other):
            times.setdefault(same(row), ([], []))[of(row) == other].append(row.seconds)
    return [geometric_mean(b) / geometric_mean(a) for a, b in times.values() if a and b]


def _versions_near(kernel: Kernel) -> list[Kernel]:
    """Kernels of the same family and format, the nearest version first."""
    names = [engine.name for engine in DLLAMA]
    if kernel.program not in names:
        programs = [name for name in ("llama.cpp", "ollama", "llamafile") if name != kernel.program]
        return [Kernel(name, kernel.weights) for name in programs]
    here = names.index(kernel.program)
    order = sorted(range(len(names)), key=lambda number: (abs(number - here), -number))
    return [Kernel(names[number], kernel.weights) for number in order if number != here]


def _boards_near(board: Board, fits: Iterable[tuple[Board, Kernel]]) -> list[Board]:
    """Other boards with the same chip, those of the same name first."""
    others = {other for other, _ in fits if other.family == board.family and other != board}
    return sorted(others, key=lambda other: (other.name != board.name, other.name, other.ram_bytes or 0))
