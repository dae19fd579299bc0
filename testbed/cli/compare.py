"""`testbed compare`: one experiment, several policies, seeds and backends, side by side."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from testbed.cli.replay import CALIBRATE, OUT, SETTINGS, SHARE, TABLE, load, say, table_row
from testbed.cli.show import echo, print_json, print_table, progress_bar

MANY = 12  # from so many runs on, people see the table of policies and not every run

TABLE_OF_POLICIES = {
    "policy": "policy", "backend": "backend", "runs": "runs", "infeasible": "infeasible", "oom": "oom",
    "failed": "failed", "over": "mean over", "mean_token_ms": "ms per token", "ci95": "95 % interval",
    "ratio_to_exact": "to exact", "migrations": "migrations", "decision_ms": "decision ms",
}  # fmt: skip
"""Key -> heading of the table of policies that `compare` and `sweep` print."""


@click.command()
@click.argument("experiment", type=click.Path(path_type=Path))
@click.option("--policy", "policies", multiple=True, required=True, help="Repeat for each policy to compare.")
@click.option("--seeds", type=click.IntRange(1, 10_000), default=1, show_default=True,
              help="Runs per policy, with seeds from the file's on; the same for every policy.")  # fmt: skip
@click.option("--backend", "backends", multiple=True, type=click.Choice(["mininet", "local", "sim"]),
              help="Repeat for each backend. Default: mininet where it can run, else local.")  # fmt: skip
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
    backends: tuple[str, ...],
    tokens: int | None,
    overrides: tuple[str, ...],
    out: Path,
    verify: bool,
    share_host: bool,
    calibrate: str,
    as_json: bool,
) -> None:
    """Run EXPERIMENT with each policy, seed and backend, and show them in one table.

    Means are over the instances that every policy finished, with 95 % intervals; runs that end infeasible, out of
    memory or failed are counted. One Parquet file beside the run folders has a row for each run. The exit code is 0
    when every run was carried out, and 5 when one's logits differ from the reference.

    Example: testbed compare experiments/quickstart.yaml --policy static --policy resource-aware

    Simulated: testbed compare experiments/small-scale.yaml --backend sim --policy headroom --policy greedy --seeds 20
    """
    from testbed.placement.policies import shared_out
    from testbed.runlog.comparison import infeasible_row, per_policy, tidy, write_tidy
    from testbed.runlog.folder import file_part
    from testbed.running import batch, launch

    chosen = list(dict.fromkeys(launch.choose_backend(backend, say) for backend in backends or (None,)))
    first = load(experiment, overrides, tokens=tokens)
    options = shared_out(list(dict.fromkeys(policies)), first.policy_options)
    planned = [
        load(experiment, overrides, tokens=tokens, policy=policy, seed=first.seed + number).model_copy(
            update={"policy_options": own}
        )
        for policy, own in options.items()
        for number in range(seeds)
    ]
    impossible = _impossible(planned, computed=chosen != ["sim"])
    requests = [
        launch.Request(
            one, backend, out, verify, share_host=share_host, calibrate=calibrate,
            progress=not as_json and backend != "sim",
        )
        for backend in chosen
        for one in planned
        if one.seed not in impossible
    ]  # fmt: skip
    # Emulated runs are announced one by one, each with a bar of its own.
    with progress_bar(chosen == ["sim"] and not as_json and sys.stderr.isatty(), len(requests), "runs") as told:
        ended: list[int] = []

        def done(number: int, summary: dict[str, Any]) -> None:
            ended.append(number)
            told(len(ended))

        carried = batch.carry_out_all(requests, (lambda message: None) if as_json else say, done)
    by_run = {
        (request.backend, request.experiment.policy, request.experiment.seed): row
        for request, row in zip(requests, carried, strict=True)
    }
    rows = [
        by_run.get((backend, one.policy, one.seed))
        or infeasible_row(one.policy, backend, one.name, one.seed, impossible[one.seed])
        for backend in chosen
        for one in planned
    ]
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    parquet = out / f"{stamp}-{file_part(first.name)}-compare.parquet"
    write_tidy([tidy(row) for row in rows], parquet)
    table = per_policy(rows)
    if as_json:
        print_json({"rows": rows, "table": table})
    else:
        _show(rows, table, seeds, parquet)
    _fail_where_logits_differ(rows)


def _impossible(planned: list[Any], computed: bool) -> dict[int, str]:
    """Seed -> why no placement can fit its instance. Raises where that is so for all, or something else is wrong.

    Warns of instances where that may come to be so later.
    """
    from testbed.running import launch
    from testbed.running.lasting import may_not_last, summed_up

    found: dict[int, str] = {}
    ends: dict[int, str | None] = {}
    for one in planned:
        try:
            prompt = launch.check_experiment(one, computed)
            if one.seed not in ends:
                ends[one.seed] = may_not_last(one, len(prompt))
        except launch.NothingFits as error:
            found[one.seed] = str(error)
            if len(found) == len({other.seed for other in planned}):
                raise
    warned = {f"seed {seed}": why for seed, why in ends.items() if why}
    if warned:
        say(f"Warning: {summed_up(warned, len(ends) + len(found))}.")
    return found


def _fail_where_logits_differ(rows: list[dict[str, Any]]) -> None:
    from testbed.running import launch

    different = [row for row in rows if row.get("verified") == "different"]
    if different:
        failed = launch.failure(different[0], accept_unfaithful=True)
        assert failed is not None
        raise failed


def _show(rows: list[dict[str, Any]], table: list[dict[str, Any]], seeds: int, parquet: Path) -> None:
    """Few runs in a table each with what is to be said of them; then the policies, where there are several seeds."""
    if len(rows) < MANY:
        headings = {"policy": "policy", "seed": "seed"} | TABLE if seeds > 1 else TABLE
        print_table(headings, [table_row(row) | {"seed": row["seed"]} for row in rows])
        for row in rows:
            _remarks(row, f"{row['policy']}, seed {row['seed']}" if seeds > 1 else row["policy"])
    if seeds > 1:
        print_table(TABLE_OF_POLICIES, [policy_row(row, seeds) for row in table])
    echo(f"Every run: {parquet}")


def policy_row(row: dict[str, Any], instances: int) -> dict[str, Any]:
    """One policy as a row of `TABLE_OF_POLICIES`."""
    interval = row["ci95_token_ms"]
    return row | {
        "over": f"{len(row['instances'])} of {instances}",
        "ci95": None if interval is None else f"{interval[0]:.4g} - {interval[1]:.4g}",
    }


def _remarks(row: dict[str, Any], name: str) -> None:
    if row.get("error"):
        echo(f"{name}: {row['error']}.")
    for note in (row.get("verdict") or {}).get("notes", []):
        echo(f"{name}: note: {note}.")
    for reason in (row.get("verdict") or {}).get("reasons", []):
        echo(f"{name}: not faithful: {reason}.")
    if row["path"]:
        echo(f"{name}: {row['path']}")
