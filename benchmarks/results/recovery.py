"""Compares ways to recover from the loss of a device, and ways to move blocks, by context length and link rate.

`python -m benchmarks.results.recovery` simulates a GPT-2 on four equal devices. In half of the runs a device dies, and
KV caches are recomputed or were replicated. In the other half a device becomes slow, and blocks move off it while
tokens stop or go on. With `--emulated`, which needs root and a quiet host, it emulates some of these runs on Mininet.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from benchmarks.results import store
from benchmarks.results.paired import DONE, prose, table
from benchmarks.results.running import Planned, collect_runs, found_rows, missing, part_key, run
from testbed.controller.calibration import NOMINAL_HOP_S

NAME = "recovery"
LOSS, MOVE = "loss", "move"
METHODS = ("recompute", "replicate")
WAYS = ("stop", "live")
CONTEXTS = (64, 256, 512, 900)  # tokens of the prompt
RATES = ("10 Mbit/s", "50 Mbit/s", "200 Mbit/s")
POLICIES = ("greedy", "static")  # static never moves by itself
TOKENS, INTERVAL, FAULT_AT = 64, 8, 40
EMULATED = ((64, "50 Mbit/s", "static"), (512, "50 Mbit/s", "greedy"))
KEPT = "kept_rows"
SHORTER = 0.9  # share of the time down from which on replicas have not saved anything
TOKEN = {"mean_token_with_stall_ms": "token, ms"}
SIM, MININET = "sim", "mininet"


def planned() -> list[Planned]:
    """The simulated runs."""
    return [
        one
        for context in CONTEXTS
        for rate in RATES
        for policy in POLICIES
        for one in _of_cell(context, rate, policy, SIM)
    ]


def emulated() -> list[Planned]:
    """The emulated runs."""
    return [one for context, rate, policy in EMULATED for one in _of_cell(context, rate, policy, MININET)]


def _of_cell(context: int, rate: str, policy: str, backend: str) -> Iterator[Planned]:
    """One length of context, one rate of links and one policy: each method of recovery, and each way to move."""
    settings = {
        "prompt": {"ids": [1 + number % 250 for number in range(context)]}, "tokens": TOKENS, "interval": INTERVAL,
        "topology": _topology(rate),
    }  # fmt: skip
    hop_s = NOMINAL_HOP_S if backend == SIM else None
    for method in METHODS:
        traces = [_trace("device/b", "kill", [(FAULT_AT, 1.0)])]
        own = settings | {"traces": traces, "recovery": {"method": method}}
        yield Planned("gpt2-star4.yaml", policy, 1, own, _said(LOSS, method, context, rate, backend), hop_s)
    for way in WAYS if policy != "static" else ():
        traces = [_trace("device/b", "streaming", [(FAULT_AT, 0.3e9)])]  # a neighbour takes the memory's bandwidth
        own = settings | {"traces": traces, "migration": way}
        yield Planned("gpt2-star4.yaml", policy, 1, own, _said(MOVE, way, context, rate, backend), hop_s)


def _said(group: str, method: str, context: int, rate: str, backend: str) -> dict[str, Any]:
    return {"backend": backend, "group": group, "method": method, "context": context, "rate": rate}


def _trace(target: str, quantity: str, rows: list[tuple[int, float]]) -> dict[str, Any]:
    changes = [[float(at), target, quantity, value] for at, value in rows]
    return {"name": f"{quantity} of {target}", "end": "hold", "period": None, "changes": changes}


def _topology(rate: str) -> dict[str, Any]:
    """Four equal devices with room for the loss of one."""
    device = {
        "streaming": "1.5 GB/s", "compute": "12 GFLOP/s", "memory": "420 MiB", "storage": "90 MB/s",
        "link": {"rate": rate, "delay": "0.5 ms"},
    }  # fmt: skip
    return {"shape": "star", "source": "a", "devices": dict.fromkeys("abcd", device)}


def main() -> None:
    """Simulate, or also emulate, the missing runs and save the table."""
    parser = store.arguments(NAME, __doc__)
    parser.add_argument("--emulated", action="store_true", help="emulate the missing runs on Mininet, too")
    options = parser.parse_args()
    runs, parts, started = planned(), store.Parts(options.parts), time.monotonic()
    collect_runs(parts, store.share_of(runs, options), NAME, options.seconds)
    for one in emulated() if options.emulated else ():
        begun = time.monotonic()
        if options.seconds is not None and begun - started > options.seconds:
            break
        if parts.find(part_key(one)) is None:
            parts.put(part_key(one), [run(one, MININET, parts.folder / "runs")], time.monotonic() - begun)
    runs += emulated()
    frame = pd.DataFrame(found_rows(parts, runs))
    store.save(NAME, frame, store.how_obtained(
        f"python -m benchmarks.results.{NAME} --emulated", "simulated, and emulated where it says so", parts.seconds(),
        [1], [f"{1e3 * NOMINAL_HOP_S:g} ms of software for a simulated hop"], commit=parts.commits(),
        runs_missing=missing(parts, runs),
    ))  # fmt: skip


# --- the page --------------------------------------------------------------------------------------------------


def section(frame: pd.DataFrame, how: store.How) -> str:
    """The section of the page on recoveries and live migration."""
    losses = frame[frame["group"] == LOSS]
    text = [
        "## Recovery: recompute or replicate, stop or copy",
        prose(f"""A GPT-2 on four equal devices with room for the loss of one. Device `b` dies after {FAULT_AT} of
            {TOKENS} tokens. KV caches are recomputed from the tokens, or only their newest rows, if replicas were kept
            on another device ([how](faults.md)); rows travel to where the policy places the heads. *Down* is the time
            from the notice of the loss to the first token after it. *Token* is the mean with stalls; it shows what
            replicas cost, which take a share of links all the time. *Kept* are the positions that a recovery with
            replicas need not recompute. On slow links most rows had not been copied yet. *Kept* is 0 if a lost head
            had no replica, for lack of memory or of time to copy any of it, or if recomputing was predicted to be
            faster.
            {_worth(losses)}"""),
        _table(losses, METHODS, {"downtime_s": "down, s", **TOKEN}, KEPT),
        prose(f"""The same devices without a loss. After {FAULT_AT} tokens the memory of `b` streams 0.3 instead of 1.5
            GB/s, and blocks move away from it, while tokens stop or [go on](live-migration.md)."""),
        _table(frame[frame["group"] == MOVE], WAYS, {"stall_s": "stall, s", **TOKEN}),
        store.obtained(how),
    ]  # fmt: skip
    return "\n\n".join(text)


def _worth(losses: pd.DataFrame) -> str:
    """In how many simulated cells replicas made the time down shorter, by how much, and in which not."""
    ended = losses[(losses["backend"] == SIM) & (losses["status"] == DONE)]
    down = ended.pivot(index=["policy", "context", "rate"], columns="method", values="downtime_s")
    shares = down.reindex(columns=METHODS).astype(float).dropna().pipe(lambda own: own["replicate"] / own["recompute"])
    shorter, rest = shares[shares < SHORTER], shares[shares >= SHORTER]
    text = (
        f"In {len(shorter)} of {len(shares)} simulated cells with both runs, replicas made *down* over a tenth shorter"
    )
    text += f", in the median to {shorter.median():.2g} of what it was" if len(shorter) else ""
    named = [f"{policy} at {context} tokens and {rate} ({shares[policy, context, rate]:.2f})"
             for policy, context, rate in rest.index]  # fmt: skip
    return text + ("" if rest.empty else f"; not for {', '.join(named)}") + "."


def _table(frame: pd.DataFrame, methods: tuple[str, ...], columns: Mapping[str, str], last: str | None = None) -> str:
    """A row for each cell, and in it each column for each method; `last` is a column of the last method alone."""
    headings = ["policy", "backend", "context", "links"]
    headings += [f"{told}: {method}" for told in columns.values() for method in methods]
    headings += ["kept"] if last is not None else []
    rows = []
    for (backend, policy, context, rate), own in frame.groupby(["backend", "policy", "context", "rate"], sort=False):
        by_method = own.set_index("method")
        cells = [_cell(by_method, method, column) for column in columns for method in methods]
        cells += [_cell(by_method, methods[-1], last)] if last is not None else []
        rows.append([policy, backend, context, rate, *cells])
    return table(headings, rows)


def _cell(by_method: pd.DataFrame, method: str, column: str) -> str | None:
    if method not in by_method.index:
        return None
    row = by_method.loc[method]
    return f"{float(f'{float(row[column]):.3g}'):g}" if row["status"] == DONE else str(row["status"])


if __name__ == "__main__":
    main()
