"""Writes docs/validation.md and its figure from the tables of testbed/validation/data, for `script/results`."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.results import validation_host
from benchmarks.results.store import ROOT
from benchmarks.results.validation_figure import draw
from testbed.validation.assumptions import DEFAULT, Assumptions
from testbed.validation.calibration import Calibration
from testbed.validation.comparison import TOKENS, Compared, validate
from testbed.validation.prediction import Configuration, node_bytes
from testbed.validation.summary import (
    BYTES_WITHIN,
    COMPUTING_MEDIAN,
    COMPUTING_OF_NAIVE,
    COMPUTING_WORST,
    SLOPE_WITHIN,
    TOKEN_MEDIAN,
    TOKEN_WORST,
    configurations,
    summarise,
)
from testbed.validation.table import BUNDLED

WIDTH = 120  # of a line of the page
PAGE = ROOT / "docs" / "validation.md"
RATES = BUNDLED.with_name("rates.json")
IMAGE = ROOT / "docs" / "img" / "validation.png"

INTRODUCTION = """# Validation: against boards that others measured

We own no boards. Others have published measurements of theirs: times of tokens and of their parts, bytes on the
network, and what did not fit. Rates are computed from measurements of a **single board** alone. Every measurement of
several boards is then predicted, and shown here beside the published value, also where it is far off. The measurements
and their sources are in `testbed/validation/data`; a *row* is a row of that table.

```sh
testbed validate                 # every row: published, predicted, error; computing, wire and software separately
testbed validate theirs.csv      # your own measurements, in the same columns
testbed validate --json
```

`script/results` writes this page from the table; no figure is typed by hand."""

KNOWN = """**These predictions are not blind.** The bounds were set before the first comparison, but both they and the
rules were written when the scored rows were known. Rows that nobody here has seen are a better test: `testbed validate
THEIR.csv`."""

HOW = """## How a row is predicted

- **Engines.** An engine is a program in a version. It is described by a list of exchanges per layer: what the root
  board sends to each worker board, what each sends back, and which matrices they share in equal parts. Each exchange is
  one call of the [latency function](cost-model.md#a-token). For versions from 0.7.1 on these lists equal placements of
  ours, tensor-parallel with a hub or all-to-all, as a test checks.
- **Computing** is timed like [every block](cost-model.md#a-device-in-finer-numbers). It is the work of the root: its
  part of the matrices, and what only the root does. Version 0.3 counts waiting for q, k and v as computing, and so
  does its prediction.
- **The naive prediction** divides the model's time on one board by the number of boards. If that board
  did not run that model alone, its time is taken as the bytes of all weights over one rate.
- A *configuration* is one program and model on certain boards, from one source. It counts once, with the median of its
  rows' errors. Errors are (predicted − published) / published token time, also where tokens per second were
  published."""


def main() -> None:
    """Write the page and its figure."""
    print(write())


def write() -> Path:
    """Write the page, its figure, and what the calibration gave beside its data; returns the page's file."""
    PAGE.write_text(text(IMAGE), encoding="utf-8")
    RATES.write_text(rates(), encoding="utf-8")
    return PAGE


def rates() -> str:
    """What the calibration gave, as JSON: a rate for each pair of board and engine, and the rows that it is from."""
    calibration = validate()[1]
    prompts = {f"{board}, {kernel}": flops for (board, kernel), flops in calibration.compute.items()}
    found = {"rates": calibration.provenance(), "logits_factor": calibration.logits_factor, "compute_flops": prompts}
    return json.dumps(found, indent=1) + "\n"


def text(image: Path) -> str:
    """The text of the page; draws the figure into `image`."""
    rows, calibration = validate()
    image.parent.mkdir(parents=True, exist_ok=True)
    draw(rows, image)
    summary = summarise(rows)
    parts = [
        INTRODUCTION, "## Findings", _scores(summary), KNOWN, _figure(rows), HOW,
        "## Computing", _timed(rows, "computing"), _misses(rows, summary),
        "## Token time on two to four boards", _timed(rows, TOKENS),
        "## Transfer, and eight boards", _transfer(rows),
        "## Decode against context", _slope(summary),
        "## Bytes, and what does not fit", _bytes_and_fits(rows, summary),
        "## Where the rates are from", _rates(calibration),
        "## What no single board decides", _sensitivity(),
        "## This host", validation_host.section(),
        "## What is left out", OUT,
    ]  # fmt: skip
    return "\n\n".join(_wrapped(block) for part in parts for block in part.strip().split("\n\n")) + "\n"


def _wrapped(block: str) -> str:
    """A paragraph or a list with lines of at most `WIDTH` characters; tables, headings and code stay as they are."""
    if block[0] in "|#!`":
        return block
    items = [block] if not block.startswith("- ") else ["- " + item for item in block[2:].split("\n- ")]
    return "\n".join(
        textwrap.fill(
            " ".join(item.split()), WIDTH, subsequent_indent="  " if item.startswith("- ") else "",
            break_long_words=False, break_on_hyphens=False,
        )
        for item in items
    )  # fmt: skip


def _percent(value: float | None, sign: bool = False) -> str:
    if value is None:
        return "-"
    return (f"{value:+.1%}" if sign else f"{value:.1%}").replace("%", " %").replace("-", "−")


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _met(value: bool | None) -> str:
    return {True: "kept", False: "**missed**", None: "-"}[value]


def _scores(summary: dict[str, Any]) -> str:
    computing, tokens = summary["computing"], summary["token_time"]
    climbs, fits = summary["slope"]["rows"], summary["feasibility"]
    rows = [
        (
            "bytes per token", str(summary["bytes"]["configurations"]),
            f"{_percent(summary['bytes']['worst_abs'])} at most", f"{_percent(BYTES_WITHIN)} each",
            _met(summary["bytes"]["met"]),
        ),
        (
            "computing", str(computing["configurations"]),
            f"median {_percent(computing['median_abs'])}, signed {_percent(computing['median_signed'], True)}, at most "
            f"{_percent(computing['worst_abs'])}; naive {_percent(computing['naive_median_abs'])}",
            f"median {_percent(COMPUTING_MEDIAN)}, at most {_percent(COMPUTING_WORST)}, "
            f"and {COMPUTING_OF_NAIVE:g} of naive", _met(computing["met"]),
        ),
        (
            "token time, 2 to 4 boards", str(tokens["configurations"]),
            f"median {_percent(tokens['median_abs'])}, signed {_percent(tokens['median_signed'], True)}, at most "
            f"{_percent(tokens['worst_abs'])}; naive {_percent(tokens['naive_median_abs'])}",
            f"median {_percent(TOKEN_MEDIAN)}, at most {_percent(TOKEN_WORST)}", _met(tokens["met"]),
        ),
        (
            "computing against context", str(len(climbs)), ", ".join(_percent(one["error"], True) for one in climbs),
            _percent(SLOPE_WITHIN), _met(summary["slope"]["met"]),
        ),
        (
            "what fits", f"{fits['told']} told, {fits['ran']} ran",
            f"{fits['right']} of {fits['told']} right; {fits['refused_though_it_ran']} refused that ran", "all",
            _met(fits["met"]),
        ),
    ]  # fmt: skip
    return _table(("score", "configurations", "error", "bound", ""), rows)


def _figure(rows: Sequence[Compared]) -> str:
    drawn = sum(one.error is not None and bool(one.predicted) for one in rows)
    return f"""![Predicted against published values, on logarithmic axes](img/validation.png)

Each point is one of the {drawn} values that have a prediction. Hollow points are single boards, which calibrate and are
never scored. On the line a prediction is exact; the band is 25 % to either side. On the left are times of a token and
of its parts, on the right bytes per token."""


def _groups(rows: Sequence[Compared], score: str) -> Iterator[tuple[list[Compared], Compared]]:
    """Each configuration's rows, and the one that stands for it: with the median error."""
    for group in configurations(rows, score).values():
        timed = sorted((one for one in group if one.time_error is not None), key=lambda one: one.time_error or 0.0)
        if timed:
            yield group, timed[(len(timed) - 1) // 2]


def _timed(rows: Sequence[Compared], score: str) -> str:
    lines = []
    for group, one in _groups(rows, score):
        config, found = one.config, one.prediction
        assert config is not None and found is not None and one.measurement.seconds is not None
        predicted = found.compute_s if score == "computing" else found.token_s
        errors = [each.time_error for each in group if each.time_error is not None]
        naive = [each.naive_error for each in group if each.naive_error is not None]
        lines.append(
            (
                f"{config.program}, {config.shape.name}", _boards(one), str(len(group)),
                f"{one.measurement.seconds * 1e3:.1f}", f"{predicted * 1e3:.1f}", _percent(median(errors), True),
                _percent(median(naive), True) if naive else "-", found.rates[0].provenance,
            )
        )  # fmt: skip
    return _table(
        ("program, model", "boards", "rows", "published, ms", "predicted, ms", "error", "naive", "rate"), lines
    )


def _boards(one: Compared) -> str:
    assert one.config is not None
    threads = f", {one.config.threads} threads" if one.config.threads else ""
    return f"{len(one.config.boards)} x {one.config.boards[0]}{threads}"


def _misses(rows: Sequence[Compared], summary: dict[str, Any]) -> str:
    newest = [
        one for one in rows if one.scored == "computing" and one.config and one.config.engine.name == "dllama-0.11"
    ]
    first = newest[0].prediction if newest else None
    assert first is not None
    return f"""Where predictions are off, and the likely reasons:

- *Newest versions on the Pi 5 with 16 GB*: predicted too slow by up to
  {_percent(max(one.time_error or 0.0 for one in newest))}. No single-board row has this version. The rate is that of
  {first.rates[0].story}. Kernels have become faster since, but no row of one board says by how much.
- *0.3 on four Pi 5*: predicted too fast. The work that the root does alone, besides logits and attention (norms,
  quantising, rope), is part of the rate, and so is divided by four with the rest. One more row per board could
  separate it; there is none.
- *The Pi 4* has one single-board row. The factor by which its logits are slower is the mean of two other pairs of
  board and version, which are far apart; [below](#what-no-single-board-decides) is what each of them would give. The
  small error there is therefore partly luck."""


def _transfer(rows: Sequence[Compared]) -> str:
    groups: dict[str, list[Compared]] = {}
    for one in rows:
        if one.measurement.kind == "network" and not one.calibration and one.prediction is not None:
            assert one.config is not None
            groups.setdefault(f"{one.config.program}, {one.config.shape.name}, {_boards(one)}", []).append(one)
    lines = []
    for name, group in groups.items():
        published = [one.measurement.seconds or 0.0 for one in group]
        predicted = [one.prediction.network_s for one in group if one.prediction is not None]
        wire = median(one.prediction.wire_s for one in group if one.prediction is not None)
        lines.append(
            (
                name, f"{median(published) * 1e3:.1f}", f"{median(predicted) * 1e3:.1f}", f"{wire * 1e3:.1f}",
                f"{median(p / q for p, q in zip(predicted, published, strict=True) if q):.2f}",
            )
        )  # fmt: skip
    eight = [
        one
        for one in rows
        if one.config and len(one.config.boards) == 8 and one.measurement.kind in ("token", "network")
    ]
    said = "; ".join(
        f"{one.measurement.metric} {_number(one.measurement.value)} ms published, {_number(one.predicted)} predicted"
        for one in eight
    )
    return (
        _table(("configuration", "published, ms", "predicted, ms", "of that wire, ms", "ratio"), lines)
        + f"""

Transfer is shown but not scored. A single board cannot show what a message costs its software, so the
predictions take the nominal {DEFAULT.lan_message_s * 1e3:g} ms. Published times also include waiting for the
slowest board, which equal boards in the model never do. On two boards of a kind, times differ more between versions of
the software than the exchanged bytes explain; we do not know why.

On eight boards the errors are large: {said}. There each exchange takes milliseconds longer than its bits and the
nominal time, for unknown reasons. The computing of eight boards is scored above."""
    )


def _number(value: float | bool | None) -> str:
    return "-" if value is None else f"{float(value):.1f}"


def _slope(summary: dict[str, Any]) -> str:
    lines = [
        (
            one["configuration"], str(one["contexts"]), f"{one['published_s'] * 1e6:.1f}",
            f"{one['predicted_s'] * 1e6:.1f}", _percent(one["error"], True),
        )
        for one in summary["slope"]["rows"]
    ]  # fmt: skip
    return (
        _table(("configuration", "contexts", "published, µs a position", "predicted", "error"), lines)
        + """

No value is fitted to these rows. Caches are read at the rate of weights. An operation reads a cache once for each query
head of its group that one thread computes: twice, with 32 query heads on four boards of four threads. That follows
from the engine's source."""
    )


def _bytes_and_fits(rows: Sequence[Compared], summary: dict[str, Any]) -> str:
    traffic = [one for one in rows if one.scored == "bytes"]
    refused = [one for one in rows if one.scored == "feasibility"]
    names = "; ".join(f"{one.measurement.row.model} on {one.measurement.row.devices}" for one in refused)
    room, fullest = min(
        ((_least_room(one.config), one) for one in rows if one.config is not None and one.fits),
        key=lambda pair: pair[0],
    )
    return f"""The {len(traffic)} predictions of bytes, for every scheme and both kinds of messages, are off by
at most {_percent(summary["bytes"]["worst_abs"])}. The bytes were published in whole KiB.

Memory counts weights, the embedding in float32, caches in float32 at the full context for which the engine reserves
them, and a reserve of {DEFAULT.reserve_bytes / 2**20:.0f} MiB a board. Everything that was reported not to fit is
refused ({names}), and nothing that ran is. The reserve can hardly be larger: {fullest.measurement.row.model} ran on
{fullest.measurement.row.devices}, where this count leaves {room / 2**20:.0f} MiB. Real systems keep more, but they
map caches only as these grow."""


def _least_room(config: Configuration) -> float:
    """Bytes that are left on the fullest board, before any reserve."""
    return min(
        (board.ram_bytes - node_bytes(config, number == 0))
        for number, board in enumerate(config.boards)
        if board is not None and board.ram_bytes is not None
    )


def _rates(calibration: Calibration) -> str:
    lines = [
        (
            str(one["board"]), str(one["engine"]), str(one["format"]),
            f"{float(str(one['streaming_Bps'])) / 1e9:.2f}",
            "-" if one["logits_factor"] is None else f"{float(str(one['logits_factor'])):.1f}",
            ", ".join(map(str, one["lines"])),  # type: ignore[call-overload]
        )
        for one in calibration.provenance()
    ]  # fmt: skip
    return (
        _table(("board", "engine", "format", "GB/s", "logits slower by", "lines of the table"), lines)
        + f"""

A rate is bytes over time. Where the logits have a kernel of their own and two models were measured, both rates come
from least squares of relative errors. Other pairs of board and engine take the mean factor of
{calibration.logits_factor:.1f} for the logits, and their rate from the nearest source: another version on the same
board, a board with the same chip (scaled by the two boards' ratio under another program), another program, or the
catalogue. Each row of `testbed validate --json` says which (`same-board`, `other-board`, `source`)."""
    )


def _sensitivity() -> str:
    tried: list[tuple[str, str, Assumptions]] = [("as predicted above", "", DEFAULT)]
    for value in (0.0, 1.0):
        tried.append(("power of the threads", f"{value:g}", replace(DEFAULT, threads_power=value)))
    known = sorted(fit.factor for fit in validate()[1].fits.values() if fit.factor is not None)
    for value in (1.0, *known):
        tried.append(("logits slower by, on the Pi 4", f"{value:.1f}", replace(DEFAULT, logits_factor=value)))
    for value in (1.0, 4.0):
        tried.append(("rereads of a cache", f"{value:g}", replace(DEFAULT, kv_rereads=value)))
    for value in (0.0, 1.2e-4, 2e-4):
        tried.append(("time of a message on a LAN", f"{value * 1e3:g} ms", replace(DEFAULT, lan_message_s=value)))
    lines = []
    for name, value, assumptions in tried:
        summary = summarise(validate(assumptions=assumptions)[0])
        lines.append((name, value, *_short(summary["computing"]), *_short(summary["token_time"]),
                      ", ".join(_percent(one["error"], True) for one in summary["slope"]["rows"])))  # fmt: skip
    return (
        _table(("assumption", "value", "computing, median", "at most", "token time, median", "at most", "slope"), lines)
        + f"""

- *Power of the threads* ({DEFAULT.threads_power:g}): a guess. With fewer threads than cores, a rate grows with this
  power of the number of threads. It was chosen half-way between a board limited by its memory (0) and one limited by
  its cores (1), when the rows with two and three threads were known. Only these rows use it.
- *Logits*: the mean of two pairs of board and version. The other lines have each of the two, and no factor. The Pi 4's
  errors with 3.7, with 10 and with the mean were known when the mean was chosen.
- *Rereads*: derived from the engine's source, as said above.
- *Time of a message*: a nominal value. 0.12 ms is an estimate by others on four Pi 5. Between virtual
  machines it is {DEFAULT.cloud_message_s * 1e3:g} ms, half of a published round trip."""
    )


def _short(score: dict[str, Any]) -> tuple[str, str]:
    return _percent(score["median_abs"]), _percent(score["worst_abs"])


OUT = """- The time of a prompt: published rates of prompts are used for compute rates only.
- Mixtures of experts, accelerators, radios, and llama.cpp on several boards, whose exchanges are not described here.
- Heat and clock rates: all boards of one name are taken to be alike.
- Energy: some rows note a peak power, which is not used in any prediction."""

if __name__ == "__main__":
    main()
