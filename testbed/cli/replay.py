"""`testbed replay`: one experiment, one policy, one run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from testbed.cli.names import EXPERIMENT, complete_policy
from testbed.cli.options import (
    ACCEPT,
    BACKEND,
    CALIBRATE,
    OUT,
    SETTINGS,
    SHARE,
    SUMMARY_AS_JSON,
    TOKENS,
    VERIFY,
    Once,
)
from testbed.cli.show import print_json, say

if TYPE_CHECKING:
    from testbed.experiment.schema import Experiment


@click.command()
@EXPERIMENT
@BACKEND
@click.option("--policy", cls=Once, instead="`testbed compare` runs several side by side",
              shell_complete=complete_policy, help="Placement policy; `testbed policies` lists them.")  # fmt: skip
@TOKENS
@click.option("--seed", type=int, help="The run's seed.")
@click.option("--chaos", type=int, metavar="SEED", help="Draw losses, restarts and pauses of devices from this seed.")
@SETTINGS
@OUT
@VERIFY
@click.option("--hold", is_flag=True, help="Keep the network up at the end, for `testbed exec`.")
@click.option("--dry-run", is_flag=True, help="Show the plan; start nothing. Needs neither root nor Mininet.")
@SHARE
@CALIBRATE
@ACCEPT
@SUMMARY_AS_JSON
def command(
    experiment: Path,
    backend: str | None,
    policy: str | None,
    tokens: int | None,
    seed: int | None,
    chaos: int | None,
    overrides: tuple[str, ...],
    out: Path,
    dry_run: bool,
    accept_unfaithful: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Run EXPERIMENT, a file or a bundled name, once and leave a run folder.

    Example: testbed replay quickstart --policy paper-search --verify --set tokens=32
    """
    from testbed.running.chaos import with_faults
    from testbed.running.request import load_experiment

    loaded = load_experiment(experiment, overrides, policy=policy, tokens=tokens, seed=seed)
    loaded = loaded if chaos is None else with_faults(loaded, chaos)
    if dry_run:
        _show_plan(loaded, backend, as_json)
        return
    from testbed.cli.summary import show_end
    from testbed.running.replay import replay_once

    summary = replay_once(loaded, backend, out, say, progress=not as_json, stream=not as_json, **options)
    show_end(summary, accept_unfaithful, as_json)


def _show_plan(experiment: Experiment, backend: str | None, as_json: bool) -> None:
    from testbed.running.dry_run import dry_run

    plan = dry_run(experiment, backend=backend)
    if as_json:
        print_json(plan)
    else:
        from testbed.cli.dry_run_table import show_plan

        show_plan(plan)
