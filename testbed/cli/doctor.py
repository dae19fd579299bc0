"""`testbed doctor`: what this machine can emulate."""

from __future__ import annotations

import click

from testbed.cli.show import json_option, print_json
from testbed.errors import EnvironmentLacks


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Try what a run needs (capsule, shaped link, netem, memory limit, streaming rate), each line with its remedy.

    Exit code 3 when something is missing that every emulated run needs. Example: testbed doctor --json
    """
    from dataclasses import asdict

    from testbed.emulation.doctor import examine

    findings = examine()
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            mark = "ok     " if finding.ok else "MISSING" if finding.required else "without"
            click.echo(f"{mark}  {finding.name}: {finding.detail}")
            if not finding.ok and finding.remedy:
                click.echo(f"         remedy: {finding.remedy}")
    missing = [finding.name for finding in findings if finding.required and not finding.ok]
    if missing:
        raise EnvironmentLacks(f"emulated runs need {', '.join(missing)}, missing here; `--backend local` works")
