"""Emulates what migration is worth: the four devices of gpt2-star4, where a link collapses and memory is taken away.

`sudo .venv/bin/python -m benchmarks.results.migration` emulates each policy and the same with a fixed first placement,
three times each; it needs root and a quiet host.
"""

from __future__ import annotations

import time

import pandas as pd

from benchmarks.results import store
from benchmarks.results.paired import DONE, prose, table
from benchmarks.results.running import Planned, found_rows, missing, part_key, run

NAME = "migration"
FROZEN = "benchmarks/results/frozen.py:PaperSearchFrozen"
POLICIES = ("headroom", "static", "paper-search", FROZEN)
SHOWN = {FROZEN: "paper-search, first placement"}
ROUNDS = 3


def planned() -> list[Planned]:
    """The runs of gpt2-star4 on Mininet; the rounds vary slowest."""
    said = {"trace": "collapse and squeeze", "drawn": False, "backend": "mininet"}
    return [Planned("gpt2-star4.yaml", policy, seed, {}, said) for seed in range(1, ROUNDS + 1) for policy in POLICIES]


def main() -> None:
    """Emulate the missing runs until the time is up, and save the table."""
    options = store.arguments(NAME, __doc__).parse_args()
    parts, runs, started = store.Parts(options.parts), planned(), time.monotonic()
    for one in runs:
        begun = time.monotonic()
        if options.seconds is not None and begun - started > options.seconds:
            break
        if parts.find(part_key(one)) is None:
            row = run(one, "mininet", parts.folder / "runs")
            parts.put(part_key(one), [row], time.monotonic() - begun)
    frame = pd.DataFrame(found_rows(parts, runs))
    store.save(NAME, frame, store.how_obtained(
        f"sudo .venv/bin/python -m benchmarks.results.{NAME}", "emulated", parts.seconds(),
        sorted(frame["seed"].unique().tolist()), commit=parts.commits(), runs_missing=missing(parts, runs),
    ))  # fmt: skip


def section(frame: pd.DataFrame, how: store.How) -> str:
    """The section of the page on emulated migration."""
    text = [
        "## Migration, emulated",
        prose("""`gpt2-star4` with its two traces on Mininet: a link collapses, and one device loses memory with notice.
            `static` keeps nothing free. Each row gives the range over three runs of the same instance."""),
        _measured_table(frame),
        store.obtained(how),
    ]
    return "\n\n".join(text)


def _measured_table(frame: pd.DataFrame) -> str:
    rows = []
    for policy in POLICIES:
        own = frame[frame["policy"] == policy]
        if len(own):
            done = own[own["status"] == DONE]
            rows.append([
                SHOWN.get(policy, policy), len(own), int((own["status"] == "oom").sum()),
                f"{own['tokens_done'].mean():.0f}",
                _range(own["mean_token_ms"], 1), _range(done["mean_token_with_stall_ms"], 1),
                _range(done["stall_s"], 2), _range(done["migrations"].astype(float), 0),
                f"{int(own['verdict_ok'].astype(bool).sum())} of {len(own)}",
            ])  # fmt: skip
    headings = ["policy", "runs", "killed by the kernel", "tokens", "ms per token", "with stalls, ms", "stall, s",
                "blocks moved", "faithful"]  # fmt: skip
    return table(headings, rows)


def _range(values: pd.Series, digits: int) -> str | None:
    if not len(values):
        return None
    low, high = f"{values.min():.{digits}f}", f"{values.max():.{digits}f}"
    return low if low == high else f"{low} to {high}"


if __name__ == "__main__":
    main()
