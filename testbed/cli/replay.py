"""`testbed replay`: one experiment, one policy, one run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from testbed.cli.names import EXPERIMENT, complete_policy
from testbed.cli.options import BACKEND, CALIBRATE, OUT, SETTINGS, SHARE, TOKENS, VERIFY, Once
from testbed.cli.show import print_json, say
from testbed.errors import FidelityError


@click.command()
@EXPERIMENT
@BACKEND
@click.option("--policy", cls=Once, instead="`testbed compare` runs several side by side",
              shell_complete=complete_policy, help="Placement policy; `testbed policies` lists them.")  # fmt: skip
@TOKENS
@click.option("--seed", type=int, help="The run's seed.")
@click.option("--chaos", type=int, metavar="SEED", help="Draw deaths, restarts and pauses of devices from this seed.")
@SETTINGS
@OUT
@VERIFY
@click.option("--hold", is_flag=True, help="Keep the network up at the end, for `testbed exec`.")
@click.option("--dry-run", is_flag=True, help="Show the plan; start nothing. Needs neither root nor Mininet.")
@SHARE
@CALIBRATE
@click.option("--accept-unfaithful", is_flag=True, help="Exit 0 even when the emulation was not faithful.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON, last and alone on standard output.")
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
    asked = {"policy": policy, "tokens": tokens, "seed": seed}
    if dry_run:
        _show_plan(experiment, backend, overrides, asked, as_json)
        return
    from testbed.running.carry_out import failure
    from testbed.running.chaos import with_faults
    from testbed.running.replay import replay_once
    from testbed.running.request import load_experiment

    loaded = load_experiment(experiment, overrides, **asked)
    loaded = loaded if chaos is None else with_faults(loaded, chaos)
    summary = replay_once(loaded, backend, out, say, progress=not as_json, stream=not as_json, **options)
    failed = failure(summary, accept_unfaithful)
    if as_json:
        print_json(summary)
    else:
        from testbed.cli.summary import show_summary

        streamed = sys.stdout.isatty()
        show_summary(summary, reasons=not isinstance(failed, FidelityError), text=not streamed)
    if failed is not None:
        raise failed


def _show_plan(
    experiment: Path, backend: str | None, overrides: tuple[str, ...], asked: dict[str, Any], as_json: bool
) -> None:
    from testbed.running.dry_run import dry_run

    plan = dry_run(experiment, backend=backend, overrides=overrides, **asked)
    if as_json:
        print_json(plan)
    else:
        from testbed.cli.dry_run_table import show_plan

        show_plan(plan)
