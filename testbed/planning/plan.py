"""Answers a plan's question: whether and how a model fits, how fast it is, what is in the way and what would help."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import fsum
from pathlib import Path
from typing import Any

from testbed.placement.cost.busy import Busy
from testbed.placement.cost.memory import device_needs
from testbed.planning.changes import changes
from testbed.planning.fleet import read_fleet
from testbed.planning.intervals import Spread, spread_for
from testbed.planning.question import Question, formats_of, read_question, why_not
from testbed.planning.rates import DeviceRate
from testbed.planning.ways import ONE, WAYS, Placed, light_effort, place_all, quickest
from testbed.running.explain import SOFTWARE, Network, divide
from testbed.running.modelled_spans import token_stages
from testbed.running.models import kv_bytes_per_token, total_bytes
from testbed.topologies.model import Topology
from testbed.validation.assumptions import DEFAULT
from testbed.validation.comparison import validate

Row = dict[str, Any]


def plan(
    model: str | Path,
    topology: str | Path,
    *,
    target: float | None = None,
    format: str | None = None,
    kv_format: str = "float32",
    wire_format: str = "float32",
    context: int | None = None,
    prompt: int | None = None,
    reserve_bytes: int = DEFAULT.reserve_bytes,
    link: str | None = None,
) -> dict[str, Any]:
    """Predict how a model would run on some devices, before anybody buys them.

    `model` is a preset, a folder with a config.json, that file, or a GGUF file. `topology` is a file, the name of a
    bundled one, or boards like `4 x raspberry-pi-5 8GB` with links of the rate `link`. Caches have room for
    `context` positions: by default all that the model has, or 8192 if it has more. `reserve_bytes` of each board of the
    catalogue are kept for its system. Without `format`, the details are those of the fastest format that fits; with a
    `target` in tokens per second, those of the widest that reaches it.

    Times are predictions of the cost model with measured rates of boards. Each has an interval, computed from the
    errors of such predictions. `fits` is False if no way to cut the model fits, and `why` then gives the reason. Raises
    ConfigError for a wrong argument.

    Example: `plan("llama-3-8b", "4 x raspberry-pi-5 8GB")["tokens_per_s"]`
    """
    rows, calibration = validate()
    fleet = read_fleet(str(topology), link)
    question = read_question(
        model, fleet, calibration, context=context, prompt=prompt, reserve_bytes=reserve_bytes, kv_format=kv_format,
        wire_format=wire_format,
    )  # fmt: skip
    spread = spread_for(len(fleet.devices), rows)
    formats = [_format_row(question, name) for name in formats_of(question, format)]
    found = _place_formats(question, formats)
    answer = {
        "model": question.shape.name, "topology": fleet.name, "shape": fleet.shape, "source": fleet.source,
        "devices": len(fleet.devices), "context": question.context, "kv_format": kv_format,
        "wire_format": wire_format, "prompt_tokens": question.prompt, "reserve_bytes": reserve_bytes,
        "formats": formats, "fits": bool(found),
    }  # fmt: skip
    if not found:
        return answer | {"why": formats[-1]["why"]}
    chosen = _chosen(found, target)
    seen, rates = question.seen_in(chosen)
    ways = found[chosen] if chosen == next(iter(found)) else place_all(seen, question.length)
    best = quickest([*found[chosen], *ways])
    for row in formats:
        if row["format"] in found:
            quick = best if row["format"] == chosen else quickest(found[row["format"]])
            row["tokens_per_s"] = _rate(quick.token_s, spread)
    return answer | {"format": chosen} | _told(question, best, ways, spread, target) | _origin(spread, rates, fleet)


def _format_row(question: Question, weights: str) -> Row:
    seen, _ = question.seen_in(weights)
    size = total_bytes(seen.shape) + question.context * kv_bytes_per_token(seen.shape)
    why = why_not(seen)
    return {
        "format": weights, "weights_bytes": total_bytes(seen.shape), "bytes": size, "fits": why is None,
        "why": None if why is None else f"in {weights} {why}", "tokens_per_s": None,
    }  # fmt: skip


def _place_formats(question: Question, formats: Sequence[Row]) -> dict[str, list[Placed]]:
    """The placements in each format that fits, by format, the narrowest first.

    The narrowest is placed in every way, and the wider ones in the way that was quickest, and on one device.
    """
    found: dict[str, list[Placed]] = {}
    ways, effort = WAYS, 1.0
    for row in reversed(formats):
        if not row["fits"]:
            continue
        seen, _ = question.seen_in(row["format"])
        placed = place_all(seen, question.length, ways, effort) or place_all(seen, question.length)
        if not placed:  # the blocks fit, but no policy finds how
            row |= {"fits": False, "why": f"in {row['format']} no policy finds a placement that fits"}
            continue
        found[row["format"]] = placed
        best = quickest(placed)
        ways, effort = tuple(dict.fromkeys((best.way, ONE))), light_effort(len(seen.devices))
    return found


def _chosen(found: Mapping[str, Sequence[Placed]], target: float | None) -> str:
    """The widest format that reaches the target, else the fastest."""
    least = {name: quickest(placed).token_s for name, placed in found.items()}
    reaching = [name for name, token_s in least.items() if target is not None and 1 / token_s >= target]
    return reaching[-1] if reaching else min(least, key=lambda name: least[name])


def _told(
    question: Question, best: Placed, ways: Sequence[Placed], spread: Spread, target: float | None
) -> dict[str, Any]:
    """The figures of the chosen format."""
    devices = _devices(question, best)
    energy = [row["joules_per_token"] for row in devices.values()]
    joules = None if None in energy else fsum(energy)
    speed = _rate(best.token_s, spread)
    found = changes(best, ways, question.length, question.topology.shape == "star")
    return {
        "way": best.way.name,
        "tokens_per_s": speed,
        "first_token_s": _interval(best.first_token_s(), spread),
        "joules_per_token": None if joules is None else _interval(joules, spread),
        "power_unknown": [name for name, row in devices.items() if row["joules_per_token"] is None],
        "target": None if target is None else {
            "tokens_per_s": target, "reached": speed["predicted"] >= target, "surely": speed["low"] >= target,
        },
        **_bottleneck(question.topology, best, question.length),
        "per_device": devices,
        "ways": [{"way": one.way.name, "tokens_per_s": 1 / one.token_s} for one in ways],
        "changes": [
            {
                "change": one.told, "devices": list(one.devices),
                "tokens_per_s": None if one.token_s is None else 1 / one.token_s,
                "gain": None if one.token_s is None else 1 / one.token_s - 1 / best.token_s,
            }
            for one in found
        ],
        "placement": {str(block): device for block, device in best.placement.devices.items()},
    }  # fmt: skip


def _bottleneck(topology: Topology, best: Placed, length: int) -> dict[str, Any]:
    """Which device and which link take most of a token's critical path, and what its parts are."""
    places: dict[str, float] = defaultdict(float)
    parts: dict[str, float] = defaultdict(float)
    stages = token_stages(best.observation, best.plan, length)
    for (part, place, _), seconds in divide(stages, Network(topology, ())).items():
        places[place] += seconds / best.token_s
        parts[part] += seconds / best.token_s
    devices = {place.removeprefix("device "): share for place, share in places.items() if place.startswith("device ")}
    links = {place: share for place, share in places.items() if not place.startswith("device ") and place != SOFTWARE}
    top = max(devices, key=lambda name: devices[name])
    link = max(links, key=lambda name: links[name], default=None)
    return {
        "bottleneck": {"device": top, "share": devices[top]},
        "busiest_link": None if link is None else {"link": link.removeprefix("link "), "share": links[link]},
        "shares": dict(parts),
    }


def _devices(question: Question, best: Placed) -> dict[str, Row]:
    """What each device holds, for how much of a token it computes, and the energy that it takes meanwhile."""
    seen = best.observation
    busy = Busy(seen, best.plan).seconds(question.length)
    needs = device_needs(seen, best.placement, seen.final_length)
    found: dict[str, Row] = {}
    for view in seen.devices:
        blocks = best.placement.on(view.name)
        found[view.name] = {
            "board": question.topology.device(view.name).catalogue,
            **{kind: sum(block.kind == kind for block in blocks) for kind in ("head", "proj", "ffn", "sum", "vocab")},
            "need_bytes": needs[view.name],
            "have_bytes": view.available_bytes,
            "streaming_Bps": view.streaming_Bps,
            "busy_share": busy[view.name] / best.token_s,
            "joules_per_token": view.model.joules(busy[view.name], best.token_s),
        }
    return found


def _origin(spread: Spread, rates: Mapping[str, DeviceRate], fleet: Topology) -> dict[str, Any]:
    """Where the intervals and the rates are from."""
    return {
        "interval": {
            "compared": spread.basis, "configurations": spread.count, "least_error": spread.least,
            "largest_error": spread.largest, "coverage": spread.coverage,
        },
        "rates": [
            {
                "device": device.name, "board": device.catalogue, "streaming_Bps": rates[device.name].streaming_Bps,
                "compute_flops": rates[device.name].compute_flops, "provenance": rates[device.name].provenance,
                "from": rates[device.name].story,
            }
            for device in fleet.devices
        ],
    }  # fmt: skip


def _interval(predicted: float, spread: Spread) -> dict[str, float]:
    low, high = spread.around(predicted)
    return {"predicted": predicted, "low": low, "high": high}


def _rate(token_s: float, spread: Spread) -> dict[str, float]:
    quick, slow = spread.around(token_s)
    return {"predicted": 1 / token_s, "low": 1 / slow, "high": 1 / quick}
