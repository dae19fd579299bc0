"""How `replay --dry-run` shows to a person what a run would do."""

from __future__ import annotations

from typing import Any

from testbed.cli.show import echo, print_table
from testbed.units import format_bytes, format_rate


def show_plan(plan: dict[str, Any]) -> None:
    """Print the devices, their blocks and their links, then the predicted latency and the warnings."""
    echo(
        f"{plan['experiment']}: {plan['model']} on {len(plan['devices'])} devices by policy {plan['policy']}, "
        f"{plan['prompt_tokens']} prompt tokens, then {plan['tokens']}; source {plan['source']}."
    )
    parts = ("proj", "ffn", "sum", "vocab")
    kinds = [kind for kind in parts if any(device[kind] for device in plan["devices"].values())]
    rows = [
        {
            "device": name,
            "heads": device["heads"],
            **{kind: device[kind] for kind in kinds},
            "need": format_bytes(device["need_bytes"]),
            "budget": format_bytes(device["budget_bytes"]),
            "limit over baseline": format_bytes(device["limit_bytes_over_baseline"]),
            **(_queues(device) if "up" in device else {}),
        }
        for name, device in plan["devices"].items()
    ]
    print_table({key: key for key in rows[0]}, rows)
    if plan["links"]:
        links = [{"link": name, **_queues(link)} for name, link in plan["links"].items()]
        print_table({key: key for key in links[0]}, links)
    if plan["dilation"] != 1:
        pace = f"{plan['dilation']:g} times slower than real time"
        echo(f"Emulated {pace}: links and queues above include this, times below do not.")
    echo(
        f"Predicted: {plan['predicted_ttft_ms']:,.0f} ms to the first token, then "
        f"{plan['predicted_token_ms']:.1f} ms per token."
    )
    takes = plan["takes_s"]
    echo(
        f"Would take about {_about(takes['total'])} here: {_about(takes['generating'])} for the tokens, "
        f"{_about(takes['deciding'])} for decisions like the first, the rest to start and stop."
    )
    for warning in plan["warnings"]:
        echo(f"Warning: {warning}.", err=True)


def _about(seconds: float) -> str:
    """Return a time in the unit in which one waits: `8 s`, `4 min`, `3 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 1 else "under 1 s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _queues(link: dict[str, Any]) -> dict[str, str]:
    """Return a link's rates, or that of a medium, and the size of its (uplink's) token bucket and queue."""
    rates: dict[str, str] = {way: format_rate(link[way]["rate_bps"]) for way in ("up", "down") if way in link}
    return {
        **(rates if "down" in rates else {"rate": rates["up"]}),
        "burst": f"{link['up']['burst_bytes']} B",
        "queue": format_bytes(link["up"]["limit_bytes"]),
    }
