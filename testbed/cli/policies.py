"""`testbed policies`: the placement policies that `--policy` knows."""

from __future__ import annotations

import click

from testbed.cli.show import echo, json_option, print_json, print_table


@click.command()
@json_option
def command(as_json: bool) -> None:
    """List the placement policies and the options each takes under `policy_options`.

    Example: testbed policies --json
    """
    from testbed.placement.policies import POLICIES, option_names

    rows = [
        {
            "name": name,
            "description": listed.description,
            "options": option_names(listed.factory),
        }
        for name, listed in POLICIES.items()
    ]
    if as_json:
        print_json(rows)
        return
    shown = [row | {"options": ", ".join(row["options"]) or "-"} for row in rows]
    print_table({"name": "policy", "description": "what it does", "options": "options"}, shown)
    echo("A policy of your own: --policy path/to/file.py:Class")
