"""How `runs` shows runs to a person: as a list, one alone, and two beside each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from testbed.cli.show import echo, print_table
from testbed.units import format_bytes

HEADINGS = {
    "name": "run", "status": "status", "policy": "policy", "backend": "backend", "tokens": "tokens",
    "mean_token_ms": "mean ms", "migrations": "migrations", "size": "size",
}  # fmt: skip
IN_BYTES = re.compile(r"(_bytes|memory_limits)(\.|$)")  # keys of numbers of bytes
LONGEST_VALUE = 60  # characters of a value in the table of differences


def show_list(rows: Sequence[dict[str, Any]]) -> None:
    """Print a row for each run, and a sentence for each that cannot be read."""
    print_table(HEADINGS, [row | {"size": format_bytes(row["size_bytes"])} for row in rows])
    for row in rows:
        if "error" in row:
            echo(f"{row['name']} is {row['status']}: {row['error']}.")


def show_facts(run: dict[str, Any]) -> None:
    """Print what `show_run` returns."""
    if "figures" not in run:
        show_list([run])
        return
    asked = run.get("tokens_asked")
    facts = {
        "run": run["path"],
        "status": run["status"] + (f": {run['error']}" if run.get("error") else ""),
        "made": run["created"],
        "experiment": run["experiment"],
        "policy": f"{run['policy']} on {run['backend']}, seed {run['seed']}",
        "model": f"{run['model']}, {run['weights']}" if run["weights"] else run["model"],
        "topology": f"{run['topology']}: {', '.join(run['devices'])}" if run["topology"] else None,
        "traces": ", ".join(filter(None, run["traces"])) or None,
        "tokens": f"{run['tokens']} of {asked}" if asked is not None else run["tokens"],
        "verified": run["verified"],
        "size": format_bytes(run["size_bytes"]),
    }
    _list(facts)
    echo()
    figures = [{"figure": told, "value": float(value)} for told, value in run["figures"].items() if value is not None]
    print_table({"figure": "figure", "value": "value"}, figures)
    for reason in run["reasons"]:
        echo(f"Not faithful: {reason}.")
    for note in run["notes"]:
        echo(f"Note: {note}.")


def show_difference(found: dict[str, Any]) -> None:
    """Print what `diff_runs` returns."""
    _list({"one": f"{found['one']} ({found['status'][0]})", "other": f"{found['other']} ({found['status'][1]})"})
    for heading, told in (("settings", "setting"), ("environment", "where it ran")):
        rows = [
            {"key": key, "one": _short(_told(key, one)), "other": _short(_told(key, other))}
            for key, (one, other) in found[heading].items()
        ]
        echo()
        if rows:
            print_table({"key": told, "one": "one", "other": "other"}, rows)
        else:
            echo(f"They do not differ in {heading}.")
    echo()
    rows = [
        {"figure": told} | {key: None if value is None else float(value) for key, value in values.items()}
        for told, values in found["figures"].items()
    ]  # whole numbers are written as all others, with commas
    print_table({"figure": "figure", "one": "one", "other": "other", "ratio": "other / one"}, rows)
    if found["first_different_token"] is not None:
        echo(f"The text differs from token {found['first_different_token']} on.")


def _list(facts: dict[str, Any]) -> None:
    """Print names and values below each other; None is left out."""
    size = max(map(len, facts))
    for name, value in facts.items():
        if value is not None:
            echo(f"{name:{size}}  {value}")


def _told(key: str, value: Any) -> str:
    """A setting or a fact in words: bytes with their unit, a list as its entries or the one that all are."""
    if value in (None, [], {}):
        return "-"
    match value:
        case bool():
            return "yes" if value else "no"
        case int() if IN_BYTES.search(key):
            return format_bytes(value)
        case list():
            entries = [_told(key, entry) for entry in value]
            return entries[0] if len(set(entries)) == 1 else ", ".join(entries)
        case {"name": name, "changes": [*changes]}:
            return f"{name} with {len(changes)} change{'' if len(changes) == 1 else 's'}"
        case dict():
            return ", ".join(f"{name} {_told(name, inner)}" for name, inner in value.items())
    return str(value)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"
