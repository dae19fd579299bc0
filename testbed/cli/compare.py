"""`testbed compare`: one experiment, several policies and seeds, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from testbed.cli.replay import BACKEND, CALIBRATE, OUT, SETTINGS, SHARE, TABLE, load, say, table_row
from testbed.cli.show import print_json, print_table


@click.command()
@click.argument("experiment", type=click.Path(path_type=Path))
@click.option("--policy", "policies", multiple=True, required=True, help="Repeat for each policy to compare.")
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True,
              help="Runs per policy, with seeds from the file's on.")  # fmt: skip
@BACKEND
@click.option("--tokens", type=int, help="Tokens to generate.")
@SETTINGS
@OUT
@click.option("--verify", is_flag=True, help="Compare every token's logits with the single-process reference.")
@SHARE
@CALIBRATE
@click.option("--json", "as_json", is_flag=True, help="Print rows and table as JSON.")
def command(
    experiment: Path,
    policies: tuple[str, ...],
    seeds: int,
    backend: str | None,
    tokens: int | None,
    overrides: tuple[str, ...],
    out: Path,
    verify: bool,
    share_host: bool,
    calibrate: str,
    as_json: bool,
) -> None:
    """Run EXPERIMENT with each policy on the same transport, and show the runs in one table.

    A run that ends out of memory, fails or is not faithful is a row; the exit code is 0 when every run was carried
    out, and 5 when one's logits differ from the reference.

    Example: testbed compare experiments/quickstart.yaml --policy static --policy resource-aware
    """
    from testbed.cli import launch

    first = load(experiment, overrides, tokens=tokens)
    planned = [
        load(experiment, overrides, tokens=tokens, policy=policy, seed=first.seed + number)
        for policy in policies
        for number in range(seeds)
    ]
    for one in planned:
        launch.check_experiment(one)
    chosen = launch.choose_backend(backend, say)
    rows: list[dict[str, Any]] = []
    for number, one in enumerate(planned, start=1):
        if not as_json:
            say(f"[{number}/{len(planned)}] {one.policy}, seed {one.seed}, on {chosen} …")
        request = launch.Request(
            one, chosen, out, verify, share_host=share_host, calibrate=calibrate, progress=not as_json
        )
        rows.append(launch.carry_out(request, say))
    if as_json:
        print_json({"rows": rows, "table": per_policy(rows)})
    else:
        _show(rows, seeds > 1)
    different = [row for row in rows if row.get("verified") == "different"]
    if different:
        failed = launch.failure(different[0], accept_unfaithful=True)
        assert failed is not None
        raise failed


def _show(rows: list[dict[str, Any]], name_seeds: bool) -> None:
    """The runs in one table, and below it what is to be said of each."""
    headings = {"policy": "policy", "seed": "seed"} | TABLE if name_seeds else TABLE
    print_table(headings, [table_row(row) | {"seed": row["seed"]} for row in rows])
    for row in rows:
        name = f"{row['policy']}, seed {row['seed']}" if name_seeds else row["policy"]
        if row.get("error"):
            click.echo(f"{name}: {row['error']}.")
        for note in (row.get("verdict") or {}).get("notes", []):
            click.echo(f"{name}: note: {note}.")
        for reason in (row.get("verdict") or {}).get("reasons", []):
            click.echo(f"{name}: not faithful: {reason}.")
        click.echo(f"{name}: {row['path']}")


def per_policy(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per policy: finished runs averaged, the others counted."""
    table = []
    for policy in dict.fromkeys(row["policy"] for row in rows):
        runs = [row for row in rows if row["policy"] == policy]
        finished = [row for row in runs if row["status"] == "done"]
        means = [row["mean_token_ms"] for row in finished if row.get("mean_token_ms") is not None]
        peaks = [row.get("peak_memory_bytes") or {} for row in runs]
        table.append(
            {
                "policy": policy,
                "runs": len(runs),
                "infeasible": sum(row.get("error_kind") == "Infeasible" for row in runs),
                "failed": sum(row["status"] == "failed" for row in runs),
                "oom": sum(row["status"] == "oom" for row in runs),
                "mean_token_ms": sum(means) / len(means) if means else None,
                "ci95_token_ms": _interval(means),
                "ratio_to_exact": None,
                "peak_memory_bytes": {
                    device: max(peak.get(device, 0) for peak in peaks) for peak in peaks for device in peak
                },
                "migrations": _mean([row["migrations"] for row in finished]),
                "decision_ms": _mean([row["decision_ms"] for row in finished]),
            }
        )
    return table


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


BOOTSTRAP_SAMPLES = 10_000


def _interval(values: list[float]) -> list[float] | None:
    """95 % percentile bootstrap interval of the mean; None for fewer than two runs."""
    if len(values) < 2:
        return None
    import random

    draw = random.Random(0)
    means = sorted(sum(draw.choices(values, k=len(values))) / len(values) for _ in range(BOOTSTRAP_SAMPLES))
    return [means[round(0.025 * BOOTSTRAP_SAMPLES)], means[round(0.975 * BOOTSTRAP_SAMPLES) - 1]]
