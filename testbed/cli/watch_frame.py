"""Draws a picture of a run as lines for a terminal; it knows widths and colours, but neither files nor keys."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.text import Text

from testbed.progress import readable
from testbed.running.picture import RUNNING, DeviceNow, Picture, Told
from testbed.units import format_bytes, format_rate

BARS = "▁▂▃▄▅▆▇█"
EVENTS, TEXT, MOST_VERDICT = 3, 5, 3  # lines; what the verdict takes more than one, the text gives
LEAST_EVENTS, LEAST_TEXT = 1, 1  # lines that all devices leave them
LEAST_NAME = 12  # columns of the heading; what follows it is cut off only then
NAME, BLOCKS, MEMORY, LINKS = 10, 12, 24, 24  # columns of the table of devices; the bar of memory takes the rest
LINKS_HEAD = "link up / down"
LEAST_BAR, MOST_BAR = 8, 64  # a narrower terminal has the columns of links as narrow as they can be, then no bar
FULL, NEARLY = 1.0, 0.9  # of a budget, for colours


def frame(picture: Picture, width: int, height: int) -> list[Text]:
    """At most `height` lines of at most `width` columns: the run's state, devices, latency, text, verdict, events.

    In a low terminal the text gives its lines to the devices first, and then the events do.
    """
    verdict = _verdict(picture.verdict, width)
    above = [_heading(picture, width), Text()]
    latency = [Text(), *_latency(picture, width)]
    text = _wrapped(picture.text, width)
    rest = height - len(above) - len(latency) - len(verdict) - 1 - bool(text)  # without the blank lines
    devices = _devices(picture.devices, width, max(2, rest - LEAST_EVENTS - (LEAST_TEXT if text else 0)))
    room = max(LEAST_TEXT, min(max(TEXT, height // 4) - len(verdict) + 1, rest - len(devices) - EVENTS))
    lines = [*above, *devices, *latency]
    if text:
        lines += [Text(), *text[-room:]]
    lines += [Text(), *verdict]
    events = [_event(told) for told in picture.events[-max(1, height - len(lines)) :]]
    lines += events[::-1]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines[:height]


def _heading(picture: Picture, width: int) -> Text:
    style = {RUNNING: "bold green", "done": "bold green"}.get(picture.status, "bold red")
    token = f"  token {picture.done} of {picture.asked}  "
    moves = f"  {picture.moved} moved, {picture.stall_s:.2f} s stalled"
    moves = f"  {picture.moving} blocks are moving" if picture.moving else moves
    name = Text(readable(f"{picture.experiment}: {picture.policy} on {picture.backend}"), style="bold")
    name.truncate(max(LEAST_NAME, width - len(f"{token}{picture.status}{moves}")), overflow="ellipsis")
    return Text.assemble(name, (token, "bold"), (picture.status, style), moves)


def _verdict(verdict: str, width: int) -> list[Text]:
    told = textwrap.wrap(readable(verdict), width, max_lines=MOST_VERDICT, placeholder=" …")
    return [Text(line, style="red" if verdict.startswith("not") else "bold") for line in told]


def _devices(devices: Sequence[DeviceNow], width: int, rows: int) -> list[Text]:
    bar = min(MOST_BAR, width - NAME - BLOCKS - MEMORY - LINKS)
    if bar < LEAST_BAR:
        links = max(len(LINKS_HEAD), *(len(_rates(device)) for device in devices))
        bar = max(0, min(LEAST_BAR, width - NAME - BLOCKS - MEMORY - links))
    head = f"{'device':{NAME}}{'blocks':>{BLOCKS - 2}}  {'memory':{bar + MEMORY}}{LINKS_HEAD}"
    shown = devices if len(devices) <= rows - 1 else devices[: rows - 2]
    lines = [Text(head, style="dim"), *(_device(device, bar) for device in shown)]
    if len(shown) < len(devices):
        lines.append(Text(f"and {len(devices) - len(shown)} more devices, in a higher terminal", style="dim"))
    return lines


def _device(device: DeviceNow, bar: int) -> Text:
    line = Text(f"{readable(device.name)[: NAME - 1]:{NAME}}", style="" if device.alive else "red strike")
    moved = f"{f'+{device.came}' if device.came else ''}{f'-{device.left}' if device.left else ''}"
    line.append(f"{device.blocks:>4} ").append(f"{moved:<{BLOCKS - 5}}", style="yellow")
    line.append_text(_memory(device, bar))
    wrong = any(
        have is not None and abs(have / device.asked_bps[way] - 1) > 0.01
        for way, have in device.readback_bps.items()
        if device.asked_bps[way]
    )
    return line.append("  " + _rates(device), style="red" if wrong else "")


def _rates(device: DeviceNow) -> str:
    """The requested rates up and down: one if they are equal, one unit if they share it."""
    rates = list(dict.fromkeys(format_rate(device.asked_bps[way]) for way in ("up", "down") if way in device.asked_bps))
    units = {rate.partition(" ")[2] for rate in rates}
    return " / ".join([rate.partition(" ")[0] for rate in rates[:-1]] + rates[-1:] if len(units) == 1 else rates)


def _memory(device: DeviceNow, bar: int) -> Text:
    """A bar of the largest budget so far, in parts: what blocks need, what is free, and the ballast."""
    if device.needed_bytes is None or not device.budget_bytes:
        return Text(" " * (bar + MEMORY - 2))
    whole = max(device.budget_bytes + device.ballast_bytes, device.needed_bytes)
    used = round(bar * device.needed_bytes / whole)
    ballast = min(bar - used, round(bar * device.ballast_bytes / whole))
    share = device.needed_bytes / device.budget_bytes
    style = "red" if share > FULL else "yellow" if share > NEARLY else "green"
    told = f" {format_bytes(device.needed_bytes)} of {format_bytes(device.budget_bytes)}"
    return Text.assemble(
        ("█" * used, style), ("·" * (bar - used - ballast), "dim"), ("▒" * ballast, "dim"), f"{told:<{MEMORY - 2}}"
    )


def _latency(picture: Picture, width: int) -> list[Text]:
    if not picture.latency_ms:
        return [Text("no token after the first yet", style="dim")]
    recent = picture.latency_ms[-width:]
    most = max(recent)
    curve = "".join(BARS[min(len(BARS) - 1, int(len(BARS) * ms / most))] for ms in recent)
    predicted = picture.predicted_ms[-1]
    told = f"latency {picture.latency_ms[-1]:,.1f} ms"
    told += "" if predicted is None else f", predicted {predicted:,.1f} ms"
    mean = sum(picture.latency_ms) / len(picture.latency_ms)
    told += f"; mean {mean:,.1f} ms; the curve's top is {most:,.1f} ms"
    return [*map(Text, textwrap.wrap(told, width)), Text(curve, style="cyan")]


def _wrapped(text: str, width: int) -> list[Text]:
    """The text in lines of the terminal, broken between words where that can be."""
    whole = readable(text).expandtabs(4)
    return [Text(part) for line in whole.splitlines() for part in textwrap.wrap(line, width) or [""]]


def _event(told: Told) -> Text:
    return Text(f"{told.t_s:8.2f} s  {readable(told.text)}", style="red" if told.fault else "")
