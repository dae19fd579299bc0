"""The section of docs/validation.md on this host, from docs/results/host.json by `benchmarks.validate_host`."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.results.store import ROOT

DATA = ROOT / "docs" / "results" / "host.json"


def section() -> str:
    """Each engine's errors, and each cell measured and predicted."""
    found = json.loads(DATA.read_text(encoding="utf-8"))
    engines = found["engines"]
    parts = [
        f"""On this host predictions can be compared with measurements of our own. `python -m benchmarks.validate_host`
profiles the host with the small models of random weights of [`testbed profile`](profile.md), and then predicts and
measures how long SmolLM2 135M takes for a token, in four formats and at three contexts. Rounds of both take turns, in
one run of {found["seconds"] / 60:.0f} minutes ({found["machine"]}, {found["date"]}). The prediction is the cost model's
for one device; no number is fitted to SmolLM2's tokens.""",
        _table(
            ("engine", "threads", "median error", "signed", "at most", "bound of the median, set before", ""),
            [
                (
                    f"{one['engine']} ({one['version']})", str(one["threads"]), _percent(one["median_abs"]),
                    _percent(one["median_signed"], True), _percent(one["worst_abs"]), _percent(one["bound"]),
                    "kept" if one["median_abs"] <= one["bound"] else "**missed**",
                )
                for one in engines
            ],
        ),
        "Milliseconds of a token, measured (with the range of the rounds' medians) and predicted:",
        _table(
            ("engine, threads", "format", "context", "measured", "predicted", "error"),
            [
                (
                    f"{one['engine']}, {one['threads']}", cell["format"], str(cell["context"]),
                    f"{cell['measured_ms']:.2f} ({cell['least_ms']:.2f} to {cell['most_ms']:.2f})",
                    f"{cell['predicted_ms']:.2f}", _percent(cell["error"], True),
                )
                for one in engines
                for cell in one["cells"]
            ],
        ),
        """The profile's models have layers of SmolLM2's size, because the rates of kernels depend on it. So this shows
how well rates of kernels predict a token's time over formats and contexts, but not how well they carry over to models
of other sizes. Our decoder computes in one thread on each device, so only llama.cpp was run with two.""",
    ]  # fmt: skip
    return "\n\n".join(parts)


def _percent(value: float, sign: bool = False) -> str:
    return (f"{value:+.1%}" if sign else f"{value:.1%}").replace("%", " %").replace("-", "−")


def _table(headings: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [headings, ("---",) * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
