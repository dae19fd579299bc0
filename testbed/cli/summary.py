"""How `replay` and `compare` show the summaries of runs to a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from testbed.cli.show import echo, print_table
from testbed.cli.terminal import write
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
    "verdict": "verdict",
}
"""Key of `table_row` -> heading of the table with a row for each run."""


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
        "verdict": _verdict(summary),
    }


def _verdict(summary: Mapping[str, Any]) -> str | None:
    if summary.get("provenance") == "simulated":
        return "simulated"
    verdict = summary.get("verdict")
    return None if verdict is None else "faithful" if verdict["ok"] else "not faithful"


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
    print_table(TABLE, [row])
    echo()
    if latency.get("mean") is not None:
        echo(
            f"Time to first token {summary['ttft_ms']:.0f} ms; then {latency['mean']:.1f} ms per token "
            f"(p99 {latency['p99']:.1f}), predicted {summary['predicted_ms']['mean']:.1f}; "
            f"{summary['tokens_per_s']:.1f} tokens a second."
        )
    if summary.get("verified"):
        echo(f"Verified: {summary['verified']}: {summary['verification']}.")
    if str(summary.get("model_weights")).startswith("random"):
        echo(f"Weights: {summary['model_weights']}.")
    for note in (summary.get("verdict") or {}).get("notes", []):
        echo(f"Note: {note}.")
    for reason in (summary.get("verdict") or {}).get("reasons", []) if reasons else ():
        echo(f"Not faithful: {reason}.")
    echo(f"Run folder: {summary['path']}")
