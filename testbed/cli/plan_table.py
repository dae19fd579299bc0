"""How `plan` shows its answer to a person, in 80 columns."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Mapping
from typing import Any

from testbed.cli.show import echo, print_table
from testbed.units import format_bandwidth, format_bytes

WIDTH = 80
LEAST_GAIN = 0.01  # of the speed; less changes nothing
Row = Mapping[str, Any]


def show_plan(plan: Row) -> None:
    """Print which formats fit, the figures of one, what is in the way, what would help, and where all that is from."""
    _say(
        f"{plan['model']} on {plan['topology']}: {plan['devices']} devices, source {plan['source']}. Caches for "
        f"{plan['context']} positions in {plan['kv_format']}; {format_bytes(plan['reserve_bytes'])} of each board are "
        "left to its system."
    )
    headings = {"format": "format", "weights": "weights", "all": "with caches", "fits": "fits", "speed": "tok/s",
                "within": "interval"}  # fmt: skip
    print_table(headings, [_format(row) for row in plan["formats"]])
    echo()
    _figures(plan)
    echo()
    rows = [{"way": one["way"], "speed": round(one["tokens_per_s"], 3)} for one in plan["ways"]]
    print_table({"way": f"how it is cut, in {plan['format']}", "speed": "tok/s"}, rows)
    echo()
    _devices(plan["per_device"])
    echo()
    print_table({"change": "change", "speed": "tok/s", "gain": "gain"}, [_change(one, plan) for one in plan["changes"]])
    echo()
    _origin(plan)


def _say(text: str) -> None:
    wide = min(WIDTH, shutil.get_terminal_size().columns) if sys.stdout.isatty() else WIDTH
    for line in textwrap.wrap(text, wide, break_on_hyphens=False):
        echo(line)


def _format(row: Row) -> dict[str, Any]:
    speed = row["tokens_per_s"]
    return {
        "format": row["format"], "weights": format_bytes(row["weights_bytes"]), "all": format_bytes(row["bytes"]),
        "fits": row["fits"], "speed": None if speed is None else round(speed["predicted"], 3),
        "within": None if speed is None else f"{speed['low']:.3g} to {speed['high']:.3g}",
    }  # fmt: skip


def _figures(plan: Row) -> None:
    joules = plan["joules_per_token"]
    energy = f"{_interval(joules)} J a token"
    if joules is None:
        energy = f"energy is not known, without idle_power and busy_power of {_some(plan['power_unknown'])}"
    _say(
        f"In {plan['format']}: {_interval(plan['tokens_per_s'])} tok/s; first token of a prompt of "
        f"{plan['prompt_tokens']} after {_interval(plan['first_token_s'])} s; {energy}."
    )
    target = plan["target"]
    if target is not None:
        told = "is missed"
        if target["reached"]:
            told = (
                "is reached" if target["surely"] else "is reached by the prediction, but not at the interval's low end"
            )
        _say(f"The target of {target['tokens_per_s']:g} tok/s {told}.")
    bound, link, shares = plan["bottleneck"], plan["busiest_link"], plan["shares"]
    told = f"Bottleneck: device {bound['device']}, on which a token spends {_percent(bound['share'])} of its time"
    if link is not None:
        told += f"; the busiest link is {link['link']}, with {_percent(link['share'])}"
    computing = shares.get("computing", 0.0)
    _say(f"{told}. Computing takes {_percent(computing)} of a token, and messages {_percent(max(0.0, 1 - computing))}.")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _some(names: list[str]) -> str:
    return f"device {names[0]}" if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _interval(value: Row | None) -> str:
    return "" if value is None else f"{value['predicted']:.3g} ({value['low']:.3g} to {value['high']:.3g})"


def _devices(devices: Mapping[str, Row]) -> None:
    kinds = [kind for kind in ("head", "proj", "ffn", "sum", "vocab") if any(row[kind] for row in devices.values())]
    rows = [
        {
            "device": name,
            **{kind: row[kind] for kind in kinds},
            "memory": f"{format_bytes(row['need_bytes'])} of {format_bytes(row['have_bytes'])}",
            "streaming": format_bandwidth(row["streaming_Bps"]),
            "busy": _percent(row["busy_share"]),
            "joules": None if row["joules_per_token"] is None else round(row["joules_per_token"], 3),
        }
        for name, row in devices.items()
    ]
    print_table({key: "J/token" if key == "joules" else key for key in rows[0]}, rows)


def _change(one: Row, plan: Row) -> dict[str, Any]:
    gain, now = one["gain"], plan["tokens_per_s"]["predicted"]
    if gain is None:
        told = "does not fit"
    elif abs(gain) < LEAST_GAIN * now:
        told = "nothing changes"
    else:
        told = f"{gain:+.2g}"
    return {"change": one["change"], "speed": None if gain is None else round(one["tokens_per_s"], 3), "gain": told}


def _origin(plan: Row) -> None:
    spread = plan["interval"]
    _say(
        f"Intervals: in {spread['configurations']} configurations predictions of {spread['compared']} were off by "
        f"{100 * spread['least_error']:+.0f} to {100 * spread['largest_error']:+.0f} % (docs/validation.md); "
        f"{_percent(spread['coverage'])} of similar ones would be within this range. No prompt or energy was compared."
    )
    told = {_rate(row): None for row in plan["rates"]}
    _say(f"Rates: {'; '.join(told)}.")


def _rate(row: Row) -> str:
    if row["provenance"] == "topology":
        return row["from"]
    return f"{row['board']} {format_bandwidth(row['streaming_Bps'])} ({row['provenance']}: {row['from']})"
