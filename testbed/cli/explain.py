"""`testbed explain`: where the milliseconds of a run's tokens went."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from testbed.cli.names import RUN
from testbed.cli.show import echo, json_option, print_json, print_table
from testbed.cli.summary import told_energy

MOST_PLACES = 8  # rows of the second table; --json has all
MOST_PARTS = 4  # of a place in a sentence
LEAST_MS = 0.05  # of a part in a sentence
DECIMALS = 1


@click.command()
@RUN
@click.option("--token", "tokens", metavar="N", type=click.IntRange(min=0), multiple=True,
              help="Explain this token, not the median and the slowest ones; may be given more than once.")  # fmt: skip
@json_option
def command(run: Path, tokens: tuple[int, ...], as_json: bool) -> None:
    """Say where the time of the median token and of the slowest tokens of RUN went, and what limits them.

    Example: testbed explain runs/20260101T000000Z-quickstart-paper-search --token 48
    """
    from testbed.running.explain import explain

    found = explain(run, tokens)
    if as_json:
        print_json(found)
        return
    if found["median_ms"] is not None:
        echo(
            f"{found['policy']} on {found['backend']}: {found['tokens_after_first']} tokens after the first, "
            f"median {found['median_ms']:.1f} ms, mean {found['mean_ms']:.1f} ms."
        )
    headings = {"token": "token", "which": "which", "latency_ms": "ms"}
    headings |= {part: part for part in found["tokens"][0]["parts_ms"]} | {"stall_ms": "stall before"}
    print_table(headings, [token | token["parts_ms"] for token in found["tokens"]], decimals=DECIMALS)
    echo()
    _show_places(found["tokens"])
    for token in found["tokens"]:
        echo(_told(token))
    if found["energy"]["energy"]:
        echo(told_energy(found["energy"]))
    for note in found["notes"]:
        echo(f"Note: {note}.")


def _show_places(tokens: list[dict[str, Any]]) -> None:
    """Print the milliseconds of each place, with a column for each token, largest first."""
    places: dict[str, dict[str, Any]] = {}
    for token in tokens:
        for row in token["places"]:
            places.setdefault(row["place"], {"place": row["place"]})[f"token {token['token']}"] = row["ms"]
    columns = [f"token {token['token']}" for token in tokens]
    ordered = sorted(places.values(), key=lambda row: -max(row.get(column, 0.0) for column in columns))
    print_table({"place": "ms at"} | {column: column for column in columns}, ordered[:MOST_PLACES], decimals=DECIMALS)
    if len(ordered) > MOST_PLACES:
        echo(f"{len(ordered) - MOST_PLACES} more places with less are in --json.")
    echo()


def _told(token: dict[str, Any]) -> str:
    """Return a sentence on what bounds a token, and on what came before it."""
    name = f"Token {token['token']}" + ("" if token["which"] == "asked" else f" ({token['which']})")
    places = {row["place"]: row for row in token["places"]}
    software, bound = places.get("software"), places.get(token["bound"])
    if bound is None or (software is not None and software["share"] > 0.5):
        told = f"{name} is bound by software: {_of(software)}"
        told += f"; of devices and links, {token['bound']} took most: {_of(bound)}" if bound else ""
    else:
        told = f"{name} is bound by {token['bound']}: {_of(bound)}"
    if token["stall_ms"]:
        told += f"; before it, migrations took {token['stall_ms']:,.1f} ms"
    return f"{told}."


def _of(place: dict[str, Any] | None) -> str:
    """Return the share of a place, and what it consists of."""
    if place is None:
        return "all"
    parts = sorted(place["of"].items(), key=lambda item: -item[1])
    what = ", ".join(f"{part} {ms:,.1f} ms" for part, ms in parts[:MOST_PARTS] if ms >= LEAST_MS)
    return f"{100 * place['share']:.0f} %" + (f" ({what})" if what else "")
