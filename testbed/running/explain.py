"""Where the milliseconds of a run's tokens went: to devices, links, waiting or software, along the critical path.

`testbed.analysis.critical_path` finds the path in the table of spans. This module knows the network as well. It divides
each message on the path into the time that its bytes take on the slowest link, the links' delays, and the time for
which it waited behind other messages. What is left of a message, and the gaps of the path, are software.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import Any

from testbed.analysis.critical_path import Part, Row, Stage, block_kind, critical_path
from testbed.errors import ConfigError
from testbed.placement.blocks import wire_bytes
from testbed.runlog.documents import refused_if_damaged
from testbed.runlog.folder import read_manifest, read_rows, read_summary
from testbed.runlog.summary import MS, mean, percentile, waits_by_step
from testbed.running.run_names import find_run
from testbed.topologies.links import Hop
from testbed.topologies.model import Topology
from testbed.wire import OUTAGE_BPS

ROUNDING = 1e-6  # relative; more is a change of conditions
SLOWEST = 3  # tokens that are explained beside the median one
SOFTWARE = "software"
PARTS = ("computing", "sending", "delay", "waiting", SOFTWARE)
"""What a token's latency consists of.

- computing: devices compute blocks, for as long as the emulated device takes
- sending: the bytes of messages pass the slowest link of their path
- delay: the delays of the links, with jitter and what lost packets cost
- waiting: messages wait behind others for a link
- software: the rest, which is messaging, scheduling, and operations that the host finished late
"""


def explain(run: str | Path, tokens: Sequence[int] = ()) -> dict[str, Any]:
    """Return where the time of the median token and of the slowest tokens went, or of the `tokens` with these numbers.

    A run's prefill (token 0) is explained only on request. Each token has `parts_ms`, which add up to its
    `latency_ms`, and so do its `places`: devices with their computing, directions of links with their sending and
    waiting, and the software. `bound` is the largest device or link. The time before the token is separate, in
    `stall_ms` and `deciding_ms`. `energy` is that of the run's summary.

    Raises ConfigError for a folder that is no run, that has no spans, that has no such token, or that is damaged.
    """
    folder = find_run(run)
    with refused_if_damaged(folder):
        return _explained_run(folder, tokens)


def _explained_run(folder: Path, tokens: Sequence[int]) -> dict[str, Any]:
    manifest = read_manifest(folder)
    rows = {row["step"]: row for row in read_rows(folder, "tokens")}
    decisions = read_rows(folder, "decisions")
    stalls = waits_by_step(decisions, charge_decision=False)
    chosen = _chosen(rows, stalls, tokens, folder)
    hop_s = (manifest.get("facts") or {}).get("hop_overhead_s") or 0.0
    network = Network(_topology(manifest, folder), read_rows(folder, "links"), _losing(manifest), hop_s)
    if manifest.get("provenance") == "simulated":
        from testbed.running.modelled_spans import SimulatedTokens

        modelled = SimulatedTokens.of(folder, manifest)
        stages = {step: modelled.stages(rows[step]) for step, _ in chosen}
    else:
        spans = _spans_of(folder, {step for step, _ in chosen})
        if any(step not in spans for step, _ in chosen):  # the run was cut short: the last tokens have none
            known = {row["step"] for row in read_rows(folder, "spans")}
            if not known or not known.issuperset(tokens):
                raise ConfigError(f"{folder} has no spans of these tokens: its run ended before they were collected")
            chosen = _chosen({step: row for step, row in rows.items() if step in known}, stalls, tokens, folder)
            spans = _spans_of(folder, {step for step, _ in chosen})
        stages = {step: [_measured(rows[step], spans[step])] for step, _ in chosen}
    deciding = {row["step"]: row["decision_s"] for row in decisions}
    decoded = [row["latency_s"] for row in rows.values() if not row["prefill"]]
    explained = [
        _explained(rows[step], which, stages[step], network)
        | {"stall_ms": MS * stalls.get(step, 0.0), "deciding_ms": MS * deciding.get(step, 0.0)}
        for step, which in chosen
    ]
    return {
        "run": folder.name,
        "policy": manifest.get("policy"),
        "backend": manifest.get("backend"),
        "tokens_after_first": len(decoded),
        "median_ms": _ms(percentile(decoded, 50)),
        "mean_ms": _ms(mean(decoded)),
        "tokens": explained,
        "energy": {key: (read_summary(folder) or {}).get(key) for key in ("energy", "joules", "joules_per_token")},
        "notes": [
            f"conditions changed during token {token['token']}: its parts are those of its start, in proportion"
            for token in explained
            if token["changed"]
        ],
    }


def _chosen(
    rows: Mapping[int, Row], stalls: Mapping[int, float], asked: Sequence[int], folder: Path
) -> list[tuple[int, str]]:
    """(token, why it is explained) of each token to explain; what came before a token makes it slow, too."""
    if not rows:
        raise ConfigError(f"{folder} has no token: its run ended before the first one")
    for step in asked:
        if step not in rows:
            raise ConfigError(f"--token {step}: {folder} has no such token: it has 0 to {max(rows)}")
    if asked:
        return [(step, "asked") for step in dict.fromkeys(asked)]
    latency = {step: row["latency_s"] for step, row in rows.items() if not row["prefill"]} or {0: rows[0]["latency_s"]}
    middle = percentile(list(latency.values()), 50) or 0.0
    median = min(latency, key=lambda step: (abs(latency[step] - middle), step))
    seen = {step: seconds + stalls.get(step, 0.0) for step, seconds in latency.items()}
    slowest = [step for step in sorted(seen, key=lambda step: (-seen[step], step)) if step != median]
    return [(median, "median"), *((step, "slowest") for step in slowest[:SLOWEST])]


def _spans_of(folder: Path, steps: set[int]) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = defaultdict(list)
    for row in read_rows(folder, "spans"):
        if row["step"] in steps:
            found[row["step"]].append(row)
    return found


def _measured(token: Row, spans: list[Row]) -> Stage:
    """An emulated token as one stage, which ends at the source."""
    return Stage(token["start_s"], token["start_s"] + token["latency_s"], "", spans)


def _topology(manifest: Mapping[str, Any], folder: Path) -> Topology:
    try:
        return Topology.from_dict(manifest["experiment"]["topology"], f"{folder}/manifest.json")
    except (KeyError, TypeError):
        raise ConfigError(f"{folder}/manifest.json has no experiment.topology: its run ended before it began") from None


def _losing(manifest: Mapping[str, Any]) -> set[str]:
    """The links that a trace makes lose packets."""
    changes = [change for trace in manifest["experiment"].get("traces") or [] for change in trace.get("changes", [])]
    return {target.removeprefix("link/") for _, target, quantity, value in changes if quantity == "loss" and value}


def _explained(token: Row, which: str, stages: Sequence[Stage], network: Network) -> dict[str, Any]:
    latency_s = token["latency_s"]
    modelled_s = math.fsum(stage.end_s - stage.start_s for stage in stages)
    scale = latency_s / modelled_s if modelled_s else 1.0  # not 1 where conditions changed during a simulated token
    summed = dict.fromkeys(PARTS, 0.0)
    table: dict[str, dict[str, Any]] = {}
    for (part_name, place, what), seconds in divide(stages, network).items():
        summed[part_name] += MS * seconds * scale
        row = table.setdefault(place, {"place": place, "ms": 0.0, "of": {}})
        row["ms"] += MS * seconds * scale
        row["of"][what] = row["of"].get(what, 0.0) + MS * seconds * scale
    ordered = sorted(table.values(), key=lambda row: -row["ms"])
    latency_ms = MS * latency_s
    for row in ordered:
        row["share"] = row["ms"] / latency_ms if latency_ms else 0.0
    return {
        "token": token["step"],
        "which": which,
        "epoch": token["epoch"],
        "latency_ms": latency_ms,
        "predicted_ms": _ms(token["predicted_s"]),
        "changed": abs(scale - 1) > ROUNDING,
        "parts_ms": summed,
        "places": ordered,
        "bound": next((row["place"] for row in ordered if row["place"] != SOFTWARE), None),
    }


def divide(stages: Sequence[Stage], network: Network) -> dict[tuple[str, str, str], float]:
    """The seconds of a token's critical path by (part of the latency, place, what)."""
    places: dict[tuple[str, str, str], float] = defaultdict(float)
    for stage in stages:
        shares = network.shares([span for span in stage.spans if span["kind"] == "transfer"])
        for part in critical_path(stage.spans, stage.start_s, stage.end_s, stage.ends_at):
            for key, seconds in _divided(part, shares):
                places[key] += seconds
    return places


def _divided(
    part: Part, shares: Mapping[int, list[tuple[str, Hop, float]]]
) -> Iterable[tuple[tuple[str, str, str], float]]:
    """((part of the latency, place, what), seconds) of one part of the critical path."""
    left = part.seconds
    if part.kind == "block" and part.span is not None:
        due = part.span["due_s"] if part.span["overrun"] and part.span["due_s"] is not None else left
        computed = min(left, due)
        yield ("computing", f"device {part.device}", block_kind(part.span["block"])), computed
        left -= computed
        yield (SOFTWARE, SOFTWARE, "late operations"), left
        return
    if part.kind == "transfer":
        for name, (link, direction), seconds in shares[id(part.span)]:
            taken = min(left, seconds)
            left -= taken
            yield (name, f"link {link} {direction}", name), taken
        yield (SOFTWARE, SOFTWARE, "messages"), left
        return
    yield (SOFTWARE, SOFTWARE, f"between operations on {part.device}" if part.device else "unknown"), left


class Network:
    """The links' rates and delays at every moment of a run, and what each message of a token asks of them.

    `losing` names links that lose packets beside those of the topology; `hop_s` is the software's time for a message.
    """

    def __init__(
        self, topology: Topology, links: Iterable[Row], losing: Iterable[str] = (), hop_s: float = 0.0
    ) -> None:
        self._topology, self._hop_s = topology, hop_s
        self._late = {*losing, *(cable.name for cable in topology.links if cable.link.needs_netem)}
        own = {}
        for cable in topology.links:
            link = cable.link
            own[cable.name, "up"] = (link.up_bps, link.up_delay_s)
            own[cable.name, "down"] = (link.down_bps, link.down_delay_s)
        self._times: dict[Hop, list[float]] = defaultdict(list)
        self._values: dict[Hop, list[tuple[float, float]]] = {hop: [value] for hop, value in own.items()}
        for row in sorted(links, key=lambda row: row["t_s"]):
            hop = (row["device"], row["direction"])
            if hop in own:
                delay = row["delay_s"] if row["delay_s"] is not None else self._values[hop][-1][1]
                self._times[hop].append(row["t_s"])
                self._values[hop].append((row["requested_bps"], delay))

    def at(self, hop: Hop, t_s: float) -> tuple[float, float]:
        """(rate in bit/s, delay in seconds) of one direction of a link."""
        rate, delay = self._values[hop][bisect_right(self._times[hop], t_s)]
        return max(rate, OUTAGE_BPS), delay

    def shares(self, messages: Sequence[Row]) -> dict[int, list[tuple[str, Hop, float]]]:
        """(part of the latency, link, seconds) for each message of one token, by the identity of its row.

        Messages pass the links of their paths as in the cost model: a link carries one at a time, in the order in which
        first bytes arrive, and a first byte goes on to the next link before the last one has come (cut-through). A
        message that takes a medium again does so when all of it has passed; until then it is being sent. What remains
        of a message over a link with jitter or loss is that link's delay.
        """
        found: dict[int, list[tuple[str, Hop, float]]] = {}
        coming = []
        for turn, row in enumerate(sorted(messages, key=lambda row: row["start_s"])):
            path = self._topology.route(row["device"], row["peer"])
            rates = [self.at(hop, row["start_s"]) for hop in path]
            slowest = min(range(len(path)), key=lambda leg: rates[leg][0])
            bits = wire_bytes(row["bytes"] or 0) * 8
            found[id(row)] = [
                *(("delay", hop, rates[leg][1]) for leg, hop in enumerate(path)),
                ("sending", path[slowest], bits / rates[slowest][0]),
            ]
            coming.append((row["start_s"], turn, 0, row, path, rates, bits))
        heapify(coming)
        free: dict[Hop, float] = defaultdict(float)
        passed: dict[tuple[int, Hop], float] = {}  # when a message has left a medium that it takes again
        while coming:
            when, turn, leg, row, path, rates, bits = heappop(coming)
            start, ready = max(when, free[path[leg]]), max(when, passed.get((turn, path[leg]), when))
            free[path[leg]] = passed[turn, path[leg]] = start + bits / min(rate for rate, _ in rates[: leg + 1])
            found[id(row)].append(("sending", path[leg], ready - when))
            found[id(row)].append(("waiting", path[leg], start - ready))
            if leg + 1 < len(path):
                heappush(coming, (start + rates[leg][1], turn, leg + 1, row, path, rates, bits))
        for row in messages if self._late else ():
            shares = found[id(row)]
            rest = row["end_s"] - row["start_s"] - self._hop_s - math.fsum(seconds for _, _, seconds in shares)
            late = [hop for hop in self._topology.route(row["device"], row["peer"]) if hop[0] in self._late]
            shares += [("delay", hop, max(0.0, rest)) for hop in late[:1]]
        return found


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else MS * seconds
