"""`testbed replay`: one experiment, one policy, one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from testbed.cli.show import echo, print_json, print_table
from testbed.errors import FidelityError

SETTINGS = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the file.")
OUT = click.option("--out", type=click.Path(path_type=Path), default=Path("runs"), show_default=True,
                   help="Folder for run folders.")  # fmt: skip
BACKEND = click.option(
    "--backend",
    type=click.Choice(["mininet", "local", "sim"]),
    help="Default: mininet where it can run, else local. sim: in virtual time, nothing computed.",
)
SHARE = click.option("--share-host", is_flag=True, help="Do not queue behind other emulated runs on this host.")
CALIBRATE = click.option(
    "--calibrate",
    type=click.Choice(["off", "quick", "full"]),
    default="quick",
    show_default=True,
    help="How thoroughly links and host are measured before token 0.",
)
ACCEPT = click.option("--accept-unfaithful", is_flag=True, help="Exit 0 even when the emulation was not faithful.")


def load(path: Path, overrides: tuple[str, ...], **given: Any) -> Any:
    """The experiment with overrides, and with the options that were given on top."""
    from testbed.experiment.schema import Experiment

    extra = [f"{key}={value}" for key, value in given.items() if value is not None]
    return Experiment.load(path, [*overrides, *extra])


def say(message: str) -> None:
    """A remark for a person, on standard error."""
    echo(message, err=True)


@click.command()
@click.argument("experiment", type=click.Path(path_type=Path))
@BACKEND
@click.option("--policy", help="Placement policy; `testbed policies` lists them.")
@click.option("--tokens", type=int, help="Tokens to generate.")
@click.option("--seed", type=int, help="The run's seed.")
@SETTINGS
@OUT
@click.option("--verify", is_flag=True, help="Compare every token's logits with the single-process reference.")
@click.option("--hold", is_flag=True, help="Keep the network up at the end, for `testbed exec`.")
@click.option("--dry-run", is_flag=True, help="Show the plan; start nothing. Needs neither root nor Mininet.")
@SHARE
@CALIBRATE
@ACCEPT
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON, last and alone on standard output.")
@click.pass_context
def command(
    ctx: click.Context,
    experiment: Path,
    backend: str | None,
    policy: str | None,
    tokens: int | None,
    seed: int | None,
    overrides: tuple[str, ...],
    out: Path,
    verify: bool,
    hold: bool,
    dry_run: bool,
    share_host: bool,
    calibrate: str,
    accept_unfaithful: bool,
    as_json: bool,
) -> None:
    """Run EXPERIMENT once and leave a run folder.

    Example: testbed replay experiments/quickstart.yaml --policy resource-aware --verify --set tokens=32
    """
    from testbed.running import launch
    from testbed.running.lasting import may_not_last

    loaded = load(experiment, overrides, policy=policy, tokens=tokens, seed=seed)
    prompt = launch.check_experiment(loaded, computed=backend != "sim" and not dry_run)
    if dry_run:
        from testbed.running.planning import dry_run as plan

        _show_plan(plan(launch.at_this_hosts_pace(loaded, backend), len(prompt)), as_json)
        return
    ends = may_not_last(loaded, len(prompt))
    if ends:
        say(f"Warning: {ends}.")
    chosen = launch.choose_backend(backend, say)
    request = launch.Request(loaded, chosen, out, verify, hold, share_host, calibrate, progress=not as_json)
    summary = launch.carry_out(request, say)
    failed = launch.failure(summary, accept_unfaithful)
    if as_json:
        print_json(summary)
    else:
        show_summary(summary, reasons=not isinstance(failed, FidelityError))
    if failed is not None:
        raise failed


def show_summary(summary: dict[str, Any], reasons: bool) -> None:
    """The summary for a person; without the verdict's reasons where the error that follows gives them."""
    latency = summary.get("token_latency_ms") or {}
    row = table_row(summary)
    print_table(TABLE, [row])
    echo()
    if latency.get("mean") is not None:
        echo(
            f"Time to first token {summary['ttft_ms']:.0f} ms; then {latency['mean']:.1f} ms per token "
            f"(p99 {latency['p99']:.1f}), predicted {summary['predicted_ms']['mean']:.1f}."
        )
    if summary.get("verified"):
        echo(f"Verified: {summary['verified']}: {summary['verification']}.")
    for note in (summary.get("verdict") or {}).get("notes", []):
        echo(f"Note: {note}.")
    for reason in (summary.get("verdict") or {}).get("reasons", []) if reasons else ():
        echo(f"Not faithful: {reason}.")
    echo(f"Run folder: {summary['path']}")


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
"""Key -> heading of the table that `replay` and `compare` print, one row per run."""


def table_row(summary: dict[str, Any]) -> dict[str, Any]:
    """One run as a row of `TABLE`."""
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
        "error_percent": None if error is None else round(100 * error, 6),  # simulated: rounding is all there is
        "verdict": _verdict(summary),
    }


def _verdict(summary: dict[str, Any]) -> str | None:
    if summary.get("provenance") == "simulated":
        return "simulated"
    verdict = summary.get("verdict")
    return None if verdict is None else "faithful" if verdict["ok"] else "not faithful"


def _show_plan(plan: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(plan)
        return
    from testbed.units import format_bytes

    echo(
        f"{plan['experiment']}: {plan['model']} on {len(plan['devices'])} devices by policy {plan['policy']}, "
        f"{plan['prompt_tokens']} prompt tokens, then {plan['tokens']}; source {plan['source']}."
    )
    parts = ("proj", "ffn", "sum", "vocab")
    kinds = [kind for kind in parts if any(device[kind] for device in plan["devices"].values())]
    rows = [
        {
            "device": name,
            "heads": device["heads"],
            **{kind: device[kind] for kind in kinds},
            "need": format_bytes(device["need_bytes"]),
            "budget": format_bytes(device["budget_bytes"]),
            "limit": f"baseline + {format_bytes(device['limit_bytes_over_baseline'])}",
            **(_queues(device) if "up" in device else {}),
        }
        for name, device in plan["devices"].items()
    ]
    print_table({key: key for key in rows[0]}, rows)
    if plan["links"]:
        links = [{"link": name, **_queues(link)} for name, link in plan["links"].items()]
        print_table({key: key for key in links[0]}, links)
    if plan["dilation"] != 1:
        pace = f"{plan['dilation']:g} times slower than life"
        echo(f"Emulated {pace}: links and queues above are set so, times below are not.")
    echo(
        f"Predicted: {plan['predicted_ttft_ms']:.0f} ms to the first token, then "
        f"{plan['predicted_token_ms']:.1f} ms per token."
    )
    for warning in plan["warnings"]:
        echo(f"Warning: {warning}.", err=True)


def _queues(link: dict[str, Any]) -> dict[str, str]:
    """A link's rates, and its uplink's token bucket."""
    from testbed.units import format_bytes, format_rate

    return {
        "up": format_rate(link["up"]["rate_bps"]),
        "down": format_rate(link["down"]["rate_bps"]),
        "burst": f"{link['up']['burst_bytes']} B",
        "queue": format_bytes(link["up"]["limit_bytes"]),
    }
