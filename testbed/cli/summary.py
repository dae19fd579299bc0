"""How `replay`, `resume` and `compare` show the summaries of runs to a person."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from testbed.cli.show import echo, print_json, print_table
from testbed.cli.terminal import write
from testbed.errors import FidelityError
from testbed.progress import readable

TABLE = {
    "policy": "policy",
    "backend": "backend",
    "status": "status",
    "tokens": "tokens",
    "p50": "p50 ms",
    "p95": "p95 ms",
    "migrations": "migrations",
    "moved_mb": "MB moved",
    "stall_s": "stall s",
    "oom_kills": "OOM kills",
    "error_percent": "prediction error %",
    "joules_per_token": "J per token",
    "verdict": "verdict",
}
"""Key of `table_row` -> heading of the table with a row for each run."""


def headings_of(summaries: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the headings of a table of these runs; energy only where it is known of one."""
    known = any(summary.get("joules_per_token") is not None for summary in summaries)
    return {key: told for key, told in TABLE.items() if known or key != "joules_per_token"}


def table_row(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return one run as a row of `TABLE`."""
    latency = summary.get("token_latency_ms") or {}
    error = summary.get("prediction_error")
    return {
        "policy": summary["policy"],
        "backend": summary["backend"],
        "status": summary["status"],
        "tokens": len(summary["tokens"]),
        "p50": latency.get("p50"),
        "p95": latency.get("p95"),
        "migrations": summary.get("migrations"),
        "moved_mb": summary["migrated_bytes"] / 1e6 if "migrated_bytes" in summary else None,
        "stall_s": summary.get("stall_s"),
        "oom_kills": summary.get("oom_kills"),
        "error_percent": None if error is None else round(100 * error, 6),  # a simulated run differs by rounding only
        "joules_per_token": summary.get("joules_per_token"),
        "verdict": _verdict(summary),
    }


def _verdict(summary: Mapping[str, Any]) -> str | None:
    if summary.get("provenance") == "simulated":
        return "simulated"
    verdict = summary.get("verdict")
    return None if verdict is None else "faithful" if verdict["ok"] else "not faithful"


def told_energy(summary: Mapping[str, Any]) -> str:
    """Return a sentence on the energy of a run, by device."""
    rows = summary["energy"]
    whole, each = summary.get("joules"), summary.get("joules_per_token")
    told = "power of some devices unknown" if whole is None or each is None else f"{whole:.4g} J, {each:.3g} J a token"
    parts = [
        f"{name} {row['joules']:.3g} J (busy {100 * row['busy_s'] / (row['busy_s'] + row['idle_s'] or 1.0):.0f} %)"
        for name, row in rows.items()
    ]
    return f"Energy: {told}; {', '.join(parts)}."


def show_end(summary: Mapping[str, Any], accept_unfaithful: bool, as_json: bool) -> None:
    """Print the summary of a run that has ended, and raise the error that it amounts to."""
    from testbed.running.carry_out import failure

    failed = failure(summary, accept_unfaithful)
    if as_json:
        print_json(summary)
    else:
        # On a terminal the text was shown while it came.
        show_summary(summary, reasons=not isinstance(failed, FidelityError), text=not sys.stdout.isatty())
    if failed is not None:
        raise failed


def show_summary(summary: Mapping[str, Any], reasons: bool, text: bool = True) -> None:
    """Print the summary of one run; without `reasons`, the error that follows says why it was not faithful.

    The generated `text` may be left out because it has been shown while it came.
    """
    if summary.get("text"):
        if text:
            write(readable(summary["text"]))
        echo()
    latency = summary.get("token_latency_ms") or {}
    row = table_row(summary)
    print_table(headings_of([summary]), [row])
    echo()
    if latency.get("mean") is not None:
        echo(
            f"Time to first token {summary['ttft_ms']:,.0f} ms; then {latency['mean']:.1f} ms per token "
            f"(p99 {latency['p99']:.1f}), predicted {summary['predicted_ms']['mean']:.1f}; "
            f"{summary['tokens_per_s']:.1f} tokens a second."
        )
    if summary.get("lost_devices"):
        echo(f"Lost: {', '.join(summary['lost_devices'])}; no token came for {summary['downtime_s']:.2f} s.")
    if summary.get("energy"):
        echo(told_energy(summary))
    if summary.get("verified"):
        echo(f"Verified: {summary['verified']}: {summary['verification']}.")
    if str(summary.get("model_weights")).startswith("random"):
        echo(f"Weights: {summary['model_weights']}.")
    for note in (summary.get("verdict") or {}).get("notes", []):
        echo(f"Note: {note}.")
    for reason in (summary.get("verdict") or {}).get("reasons", []) if reasons else ():
        echo(f"Not faithful: {reason}.")
    echo(f"Run folder: {summary['path']}")
