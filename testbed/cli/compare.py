"""`testbed compare`: one experiment, several policies, seeds and backends, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from testbed.cli.names import EXPERIMENT, complete_policy
from testbed.cli.options import CALIBRATE, DASHBOARD, OUT, ROWS_AS_JSON, SCHEDULER, SETTINGS, SHARE, TOKENS, VERIFY
from testbed.cli.show import echo, print_json, print_table, say
from testbed.cli.summary import headings_of, table_row
from testbed.progress import readable
from testbed.running.backends import BACKENDS, DEFAULT_TOLD

if TYPE_CHECKING:
    from testbed.running.comparison import Comparison

MANY = 12  # from so many runs on, people see the table of policies and not every run


@click.command()
@EXPERIMENT
@click.option(
    "--policy",
    "policies",
    multiple=True,
    required=True,
    shell_complete=complete_policy,
    help="Repeat for each policy to compare.",
)
@click.option("--seeds", type=click.IntRange(1, 10_000), default=1, show_default=True,
              help="Runs per policy. Seeds count up from the experiment's; every policy has the same.")  # fmt: skip
@click.option("--backend", multiple=True, type=click.Choice(list(BACKENDS)),
              help=f"Repeat for each backend. {DEFAULT_TOLD}")  # fmt: skip
@TOKENS
@SETTINGS
@OUT
@VERIFY
@SHARE
@CALIBRATE
@SCHEDULER
@DASHBOARD
@ROWS_AS_JSON
def command(experiment: Path, policies: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Run EXPERIMENT with each policy, seed and backend, and show them in one table.

    Means are over the instances that every policy finished, with 95 % intervals; runs that end infeasible, out of
    memory or failed are counted. A Parquet file beside the run folders has a row for each run. The exit code is 0
    if every run was carried out, and 5 if the logits of one differ from the reference.

    Example: testbed compare experiments/quickstart.yaml --policy static --policy paper-search

    Simulated: testbed compare experiments/small-scale.yaml --backend sim --policy headroom --policy greedy --seeds 20
    """
    from testbed.running.compare import compare_all, refuse_different_logits

    found = compare_all(experiment, policies, progress=not as_json, tell=say, **options)
    if as_json:
        print_json(found.document())
    else:
        _show(found)
    refuse_different_logits(found)


def _show(found: Comparison) -> None:
    """Print few runs in a table each with what is to be said of them; then the policies, if there are several seeds."""
    several = found.instances > 1
    if len(found.summaries) < MANY:
        headings = headings_of(found.summaries)
        headings = {"policy": "policy", "seed": "seed"} | headings if several else headings
        print_table(headings, [table_row(row) | {"seed": row["seed"]} for row in found.summaries])
        for row in found.summaries:
            _remarks(row, f"{row['policy']}, seed {row['seed']}" if several else row["policy"])
    if several:
        print_table(found.headings(), found.policy_rows())
    echo(f"Every run: {found.file}")


def _remarks(row: Mapping[str, Any], name: str) -> None:
    """Print the text of a run, its error, the notes and reasons of its verdict, and where its folder is."""
    if row.get("text"):
        echo(f"{name} wrote: {readable(row['text'])}")
    if row.get("verified"):
        echo(f"{name}: verified: {row['verified']}: {row['verification']}.")
    if row.get("error"):
        echo(f"{name}: {row['error']}.")
    for note in (row.get("verdict") or {}).get("notes", []):
        echo(f"{name}: note: {note}.")
    for reason in (row.get("verdict") or {}).get("reasons", []):
        echo(f"{name}: not faithful: {reason}.")
    if row["path"]:
        echo(f"{name}: {row['path']}")
