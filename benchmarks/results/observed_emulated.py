"""Emulates policies that see the trace, and policies that see only the run, and compares both with the twin.

`sudo .venv/bin/python -m benchmarks.results.observed_emulated` calibrates this host, makes the runs that are missing on
Mininet, simulates each with the calibrated host, and saves the table. It needs root and a host on which nothing else
runs. Each bundled trace is moved so that its first change comes after two decisions, and runs are short. It may be
stopped at any time: the same command goes on.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from benchmarks.results import store
from benchmarks.results.observed import BOARDS, MEASURED, ORACLE, SHOWN, STAR
from benchmarks.results.paired import prose, table
from benchmarks.results.running import Planned, part_key, run
from testbed.controller import calibration
from testbed.errors import TestbedError
from testbed.placement.policies import make_policy
from testbed.running.calibrate import calibrate

NAME = "observed_emulated"
CALIBRATION = "calibration"  # without `.json`, which is the suffix of parts
POLICIES = ("headroom", "static", "paper-search", "greedy", "edgeshard")
TOKENS = 40
TRACES: dict[str, tuple[str, float, dict[str, Any]]] = {  # the experiment, by how much it is moved, other settings
    "link-collapse": (BOARDS, -24, {}),
    "cellular-walk": (BOARDS, 0, {}),
    "outage": (BOARDS, -26, {"trace_clock": "time"}),
    "board-squeeze": (BOARDS, -32, {}),
    "memory-squeeze": (STAR, -32, {}),
    "cpu-contention": (STAR, -16, {}),
}
OF_RUN = ("status", "mean_token_with_stall_ms", "tokens_done", "migrations", "wrong_moves", "stall_s", "error")


def planned() -> list[Planned]:
    """All runs: of each policy under each trace, with the oracle and measured."""
    return [
        Planned(
            experiment, policy, 1,
            {"traces": [{"path": f"traces/data/{trace}.csv", "offset": offset}], "tokens": TOKENS}
            | settings | SHOWN[shown],
            {"trace": trace, "shown": shown},
        )
        for policy in POLICIES for trace, (experiment, offset, settings) in TRACES.items()
        for shown in (ORACLE, MEASURED)
    ]  # fmt: skip


def main() -> None:
    """Calibrate, make the missing runs, and save the table."""
    options = store.arguments(NAME, __doc__).parse_args()
    parts, runs = store.Parts(options.parts), store.share_of(planned(), options)
    file = parts.folder / CALIBRATION
    os.environ[calibration.PATH_VARIABLE] = str(file)
    if not file.exists():
        calibrate("mininet", tell=print)
    for policy in POLICIES:
        make_policy(policy, {}).reset(0)  # compiles its search if needed
    started = time.monotonic()
    for number, one in enumerate(runs, 1):
        begun = time.monotonic()
        if parts.find(part_key(one)) is not None:
            continue
        if options.seconds is not None and begun - started > options.seconds:
            break
        row = compared(one, parts)
        parts.put(part_key(one), [row], time.monotonic() - begun)
        told = ", ".join(
            f"{key} {row.get(key)}"
            for key in ("status", "mean_token_with_stall_ms", "twin_mean_token_with_stall_ms", "verdict_reasons")
        )
        print(f"{number}/{len(runs)} {part_key(one)}: {told} [{time.monotonic() - begun:.0f} s]", flush=True)
    save(parts)


def compared(one: Planned, parts: store.Parts) -> dict[str, Any]:
    """The row of an emulated run, with what the twin says of it."""
    folder = parts.folder / "runs"
    try:
        emulated = run(one, "mininet", folder)
    except TestbedError as error:  # the other runs are not to be lost
        emulated = {**one.said, "policy": one.policy, "seed": one.seed, "status": "failed", "error": str(error)}
    if "run" in emulated:
        shutil.rmtree(folder / emulated["run"], ignore_errors=True)
    twin = run(one, "sim")
    return {**emulated, **{f"twin_{column}": twin.get(column) for column in OF_RUN}}


def save(parts: store.Parts) -> None:
    """Write the table from the runs that were made."""
    runs = planned()
    frame = pd.DataFrame([row for one in runs for row in parts.find(part_key(one)) or []])
    found = calibration.host_calibration()
    store.save(NAME, frame, store.how_obtained(
        f"sudo .venv/bin/python -m benchmarks.results.{NAME}", "emulated", parts.seconds(), [1],
        [f"calibrated before: {found.hop_overhead_s * 1e3:.3f} ms of software for a hop"],
        commit=parts.commits(), runs_missing=sum(parts.find(part_key(one)) is None for one in runs),
    ))  # fmt: skip


# --- the page --------------------------------------------------------------------------------------------------


def section(frame: pd.DataFrame, how: store.How) -> str:
    """The section of the page on emulated runs that see only themselves."""
    faithful = int(frame["verdict_ok"].eq(True).sum())
    done = frame[frame["status"].eq("done") & frame["twin_status"].eq("done")]
    off = (done["mean_token_with_stall_ms"] / done["twin_mean_token_with_stall_ms"] - 1).abs()
    alike = frame[["status", "migrations"]].to_numpy() == frame[["twin_status", "twin_migrations"]].to_numpy()
    text = [
        "## Observed, emulated",
        prose(f"""The same comparison on Mininet, in short runs of {TOKENS} tokens: the quick start, and a GPT-2 on
            `star4.yaml` under the two traces that are made for it alone. Each bundled trace is shifted so that its
            first change comes after two decisions, and the outage so that it begins after 4 s. {faithful} of
            {len(frame)} runs were faithful. Times differ from the twin's by {100 * off.median():.1f} % in the median
            and by {100 * off.max():.1f} % at most. {alike[:, 0].sum()} runs ended as the twin's did, and {alike[:,
            1].sum()} moved as many blocks."""),
        table(["trace", "policy", "shown", "emulated, ms", "twin, ms", "off by", "ended", "moves", "faithful"],
              list(_lines(frame))),
        prose("""*emulated* and *twin*: time of a token with its share of stalls. *ended* and *moves*: emulated, then
            the twin. A run that was killed has no time."""),
        *_unfaithful(frame),
        store.obtained(how),
    ]  # fmt: skip
    return "\n\n".join(text)


def _lines(frame: pd.DataFrame) -> Iterator[Sequence[object]]:
    for row in frame.sort_values("trace", key=lambda names: names.map(list(TRACES).index), kind="stable").to_dict(
        "records"
    ):
        both = row["status"] == row["twin_status"] == "done"
        emulated, twin = row["mean_token_with_stall_ms"], row["twin_mean_token_with_stall_ms"]
        yield [
            row["trace"], row["policy"], row["shown"], *(f"{one:.1f}" if both else None for one in (emulated, twin)),
            f"{100 * (emulated / twin - 1):+.1f} %" if both else None, f"{_ended(row, '')}, {_ended(row, 'twin_')}",
            ", ".join(_count(row[column]) for column in ("migrations", "twin_migrations")),
            "yes" if row["verdict_ok"] is True else "no",
        ]  # fmt: skip


def _ended(row: dict[str, Any], whose: str) -> str:
    status = row[f"{whose}status"]
    return f"killed at {_count(row[f'{whose}tokens_done'])}" if status == "oom" else str(status)


def _count(value: Any) -> str:
    return "-" if pd.isna(value) else f"{value:.0f}"


def _unfaithful(frame: pd.DataFrame) -> list[str]:
    """What made runs unfaithful, one line for each."""
    rows = frame[frame["verdict_reasons"].fillna("") != ""].to_dict("records")
    if not rows:
        return []
    said = [f"- {row['trace']}, {row['policy']}, {row['shown']}: {row['verdict_reasons']}" for row in rows]
    return ["Not faithful:", "\n".join(said)]


if __name__ == "__main__":
    main()
