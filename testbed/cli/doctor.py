"""`testbed doctor`: what this machine can emulate, and with `--full` how well."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import click

from testbed.cli.show import echo, json_option, print_json, say
from testbed.errors import EnvironmentLacks, FidelityError

if TYPE_CHECKING:
    from testbed.doctor.finding import Finding

WIDTH = 80


@click.command()
@click.option("--full", is_flag=True, help="Also measure rates, steps, delays and paced compute; takes about a minute.")
@click.option("--share-host", is_flag=True, help="Do not queue behind emulated runs on this host before measuring.")
@json_option
def command(full: bool, share_host: bool, as_json: bool) -> None:
    """Test what a run needs (capsule, shaped link, netem, memory limit, devices at once); each line says what to do.

    The exit code is 3 if something is missing that every emulated run needs, and 4 if --full finds that this machine
    does not keep rates, delays or paces (docs/fidelity.md says how well it must).

    Example: testbed doctor --full --json
    """
    from dataclasses import asdict

    from testbed.doctor.host_checks import examine, measure
    from testbed.emulation.host_lock import host_lock

    findings = examine()
    missing = [finding.name for finding in findings if finding.required and not finding.ok]
    if not as_json:
        _show(findings)
    if full and not missing:
        with nullcontext() if share_host else host_lock(say):
            measured = measure()
        if not as_json:
            _show(measured)
        findings += measured
    if as_json:
        print_json([asdict(finding) for finding in findings])
    if missing:
        raise EnvironmentLacks(f"emulated runs need {', '.join(missing)}, missing here; `--backend local` works")
    off = [finding.name for finding in findings if finding.fidelity and not finding.ok]
    if off:
        raise FidelityError(f"this machine does not keep {'; '.join(off)}: stop what else runs here and measure again")


def _show(findings: list[Finding]) -> None:
    for finding in findings:
        lacking = "OFF" if finding.fidelity else "MISSING" if finding.required else "without"
        label = lacking if not finding.ok else "slow" if finding.slow else "ok"
        _print_finding(label, f"{finding.name}: {finding.detail}")
        if finding.remedy and (finding.slow or not finding.ok):
            _print_finding("", f"remedy: {finding.remedy}")


def _print_finding(label: str, text: str) -> None:
    """Print one finding in as many lines of WIDTH as it takes; paths and addresses are never broken."""
    from textwrap import fill

    first, following = f"{label:<9}", " " * 9
    echo(fill(text, WIDTH, initial_indent=first, subsequent_indent=following, break_long_words=False,
              break_on_hyphens=False))  # fmt: skip
