"""`testbed validate`: predicts published measurements of real boards, each beside its published value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from testbed.cli.show import echo, json_option, print_json, print_table

_HEADINGS = {
    "line": "line", "model": "model", "devices": "devices", "metric": "metric", "value": "published",
    "predicted": "predicted", "error": "error", "naive_error": "naive", "parts": "computing + wire + software",
    "from": "rate from", "why": "scored",
}  # fmt: skip


@click.command()
@click.argument("table", required=False, type=click.Path(path_type=Path))
@json_option
def command(table: Path | None, as_json: bool) -> None:
    """Predict each row of a table of measurements on real boards from the rows of single boards alone.

    TABLE is a CSV file with the columns source, where, model, quant_bits, devices, link, metric, value, unit and notes;
    by default the bundled one. Its rows of single boards are also used to calibrate.

    Example: testbed validate measurements.csv --json
    """
    from testbed.validation.comparison import validate
    from testbed.validation.summary import summarise

    rows, calibration = validate(table)
    summary = summarise(rows)
    if as_json:
        print_json(
            {"rows": [one.row() for one in rows], "summary": summary, "calibrated_from": calibration.provenance()}
        )
        return
    print_table(_HEADINGS, [_shown(one.row()) for one in rows])
    for line in told(summary):
        echo(line)


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    parts = [row[key] for key in ("computing_ms", "wire_ms", "software_ms")]
    return row | {
        "value": _number(row["value"]),
        "predicted": _number(row["predicted"]),
        "error": _percent(row["error"]),
        "naive_error": _percent(row["naive_error"]),
        "parts": "-" if parts[0] is None else " + ".join(f"{part:.1f}" for part in parts) + " ms",
        "from": (row["provenance"] or {}).get("rate", "-"),
        "why": row["scored"] or f"no: {row['reason']}",
    }


def _number(value: float | bool | None) -> str:
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1%}"


def told(summary: dict[str, Any]) -> list[str]:
    """A sentence for each score, with its bounds."""
    found = []
    traffic, computing, tokens = summary["bytes"], summary["computing"], summary["token_time"]
    if traffic["met"] is not None:
        found.append(
            f"Bytes per token: {traffic['configurations']} configurations, {traffic['worst_abs']:.2%} off at most."
        )
    for name, score in (("Computing", computing), ("Token time on 2 to 4 boards", tokens)):
        if score["met"] is not None:
            naive = score["naive_median_abs"]
            beside = f"; the naive prediction {naive:.1%}" if naive is not None else ""
            found.append(
                f"{name}: {score['configurations']} configurations, median {score['median_abs']:.1%} off "
                f"(signed {score['median_signed']:+.1%}), {score['worst_abs']:.1%} at most{beside}."
            )
    for one in summary["slope"]["rows"]:
        found.append(
            f"Computing against context: {one['predicted_s'] * 1e6:.1f} us a position, published "
            f"{one['published_s'] * 1e6:.1f} ({one['error']:+.1%})."
        )
    fits = summary["feasibility"]
    if fits["met"] is not None:
        found.append(
            f"Memory: {fits['right']} of {fits['told']} answers right; of {fits['ran']} values that were measured, "
            f"{fits['refused_though_it_ran']} are of a configuration that would be refused."
        )
    if summary["transfer"]["rows"]:
        found.append(
            f"Transfer, not scored: {summary['transfer']['median_ratio']:.2f} of the published time in the median."
        )
    return found
