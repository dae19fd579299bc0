"""`testbed calibrate`: measure once what this host's software adds, for policies, predictions and the simulation."""

from __future__ import annotations

import click

from testbed.cli.options import SHARE
from testbed.cli.show import echo, json_option, print_json, say
from testbed.running.backends import BACKENDS, DEFAULT_TOLD


@click.command()
@click.option("--backend", type=click.Choice([row.name for row in BACKENDS.values() if row.emulated]),
              help=DEFAULT_TOLD)  # fmt: skip
@SHARE
@click.option("--show", is_flag=True, help="Measure nothing; show the values in use.")
@json_option
def command(backend: str | None, share_host: bool, show: bool, as_json: bool) -> None:
    """Measure this host's time per network hop, per block and with several devices at once. Takes about a minute.

    The values are kept in a file, and decisions and predictions on every backend use them. Delete the file to return
    to nominal values. $TESTBED_CALIBRATION names another file. Measure when nothing else runs.

    Example: testbed calibrate --json
    """
    from testbed.controller.calibration import calibration_path, host_calibration
    from testbed.controller.host_speed import told_rates

    if show:
        found = host_calibration()
    else:
        from testbed.running.calibrate import calibrate

        found = calibrate(backend, share_host=share_host, tell=say)
    path = calibration_path()
    if as_json:
        print_json({"path": str(path), **found.to_dict()})
        return
    where = f"measured on {found.backend} at {found.created}, in {path}" if found.measured else f"nominal; no {path}"
    echo(f"Time per hop {found.hop_overhead_s * 1e3:.3f} ms ({where}).")
    if found.measured:
        echo(f"Paced operations end at most {found.pacing_floor_s * 1e3:.3f} ms late (95th percentile).")
        blocks = ", ".join(f"{kind} {seconds * 1e3:.2f} ms" for kind, seconds in found.block_seconds.items())
        echo(f"One core needs for a block of {found.model}: {blocks}.")
    if found.speed is not None:
        echo(f"So fast each device may stream, by how many compute at once: {told_rates(found.speed)}.")
