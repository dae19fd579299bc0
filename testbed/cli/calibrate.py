"""`testbed calibrate`: measure once what this host's software adds, for policies, predictions and the simulation."""

from __future__ import annotations

import click

from testbed.cli.show import echo, json_option, print_json


@click.command()
@click.option(
    "--backend", type=click.Choice(["mininet", "local"]), help="Default: mininet where it can run, else local."
)
@click.option("--share-host", is_flag=True, help="Do not queue behind other emulated runs on this host.")
@click.option("--show", is_flag=True, help="Measure nothing; show what is in force.")
@json_option
def command(backend: str | None, share_host: bool, show: bool, as_json: bool) -> None:
    """Measure this host's time per network hop and per block, and keep them in a file; takes about a minute.

    Decisions and predictions then use these values on every backend. Without the file nominal ones hold: delete it to
    go back. $TESTBED_CALIBRATION names another file. Measure when nothing else runs.

    Example: testbed calibrate --json
    """
    from testbed.calibration import calibration_path, host_calibration, write_calibration
    from testbed.cli.replay import say

    if show:
        found = host_calibration()
    else:
        from testbed.cli import calibrating, launch

        found = calibrating.calibrate(launch.choose_backend(backend, say), share_host, say)
        write_calibration(found)
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
