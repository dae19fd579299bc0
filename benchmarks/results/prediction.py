"""Compares the cost model with emulated tokens, and splits the error into computing, links and software.

`sudo .venv/bin/python -m benchmarks.results.prediction` calibrates this host, and then emulates and simulates each
case. It needs root and a host on which nothing else runs. A case takes less than a minute.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.results import store
from benchmarks.results.attribution import predicted_parts
from benchmarks.results.paired import prose, table
from benchmarks.results.running import Planned, run
from testbed import analysis
from testbed.controller import calibration
from testbed.running.calibrate import calibrate

NAME = "prediction"
CALIBRATION = "calibration"  # without `.json`, which is the suffix of parts
MS = 1e3
PARTS = ("compute", "transfer", "software")
KEPT_OF_RUN = (
    "migrations",
    "total_s",
    "simulated_total_s",
    "stall_s",
    "simulated_stall_s",
    "ttft_ms",
    "simulated_ttft_ms",
)


@dataclass(frozen=True)
class Case:
    """An experiment, and the largest median error that counts as right."""

    name: str
    policy: str
    limit: float
    settings: dict[str, Any] = field(default_factory=dict)

    def planned(self, backend: str) -> Planned:
        """The run of this case."""
        return Planned("gpt2-star4.yaml", self.policy, 1, self.settings, {"case": self.name, "backend": backend})


def _on(topology: str, tokens: int = 32, **settings: Any) -> dict[str, Any]:
    return {"topology": f"topologies/{topology}.yaml", "traces": [], "tokens": tokens, **settings}


CASES = (
    Case("gpt2-star4", "paper-search", 0.05),
    Case("gpt2-star4", "headroom", 0.05),
    Case("star, no traces", "static", 0.10, _on("star4")),
    Case("two clusters, 40 Mbit/s between", "paper-search", 0.10, _on("two-tier6")),
    Case("mesh of four", "paper-search", 0.10, _on("mesh4")),
    Case("ring of five", "paper-search", 0.10, _on("ring5")),
    Case("star, `ffn_shards: 4`", "headroom", 0.10, _on("star4", partition={"ffn_shards": 4})),
    Case("eight drawn devices", "headroom", 0.10, {
        "topology": {"generate": "paper", "devices": 8, "memory": "1.4 x model", "streaming": "1 GB/s"},
        "traces": [], "tokens": 32,
    }),
    Case("outage on the time clock", "paper-search", 0.10, {
        "traces": ["traces/data/outage.csv", "traces/data/cpu-contention.csv"], "trace_clock": "time", "tokens": 128,
    }),
)  # fmt: skip


def main() -> None:
    """Calibrate, emulate and simulate the missing cases, and save the table."""
    parser = store.arguments(NAME, __doc__)
    options = parser.parse_args()
    parts, started = store.Parts(options.parts), time.monotonic()
    file = options.parts / CALIBRATION
    os.environ[calibration.PATH_VARIABLE] = str(file)
    if not file.exists():
        calibrate("mininet", tell=print)
    for number, case in enumerate(CASES):
        if options.seconds is not None and time.monotonic() - started > options.seconds:
            break
        if parts.find(str(number)) is None:
            begun = time.monotonic()
            rows = measured(case, options.parts / "runs")
            parts.put(str(number), rows, time.monotonic() - begun)
    save(parts)


def measured(case: Case, folder: Path) -> list[dict[str, Any]]:
    """A row for each decode token of a case; values of the whole run stand in each row."""
    emulated = run(case.planned("mininet"), "mininet", folder)
    if not emulated.get("run") or emulated["status"] != "done":
        raise RuntimeError(f"{case.name} under {case.policy} ended {emulated['status']}: {emulated.get('error')}")
    simulated = run(case.planned("sim"), "sim", folder)
    tokens = analysis.load(folder / emulated["run"]).decoded
    twin = analysis.load(folder / simulated["run"]).decoded.set_index("step")["latency_s"]
    split = predicted_parts(folder / emulated["run"])
    same = {
        "case": case.name, "policy": case.policy, "limit": case.limit, "verdict_ok": emulated["verdict_ok"],
        "verdict_reasons": emulated["verdict_reasons"], "migrations": emulated["migrations"],
        "total_s": emulated["total_s"], "simulated_total_s": simulated["total_s"],
        "stall_s": emulated["stall_s"], "simulated_stall_s": simulated["stall_s"],
        "ttft_ms": emulated["ttft_ms"], "simulated_ttft_ms": simulated["ttft_ms"],
    }  # fmt: skip
    return [
        same | {
            "step": token.step, "emulated_ms": token.latency_s * MS, "predicted_ms": token.predicted_s * MS,
            "simulated_ms": float(twin[token.step]) * MS,
            **{f"{part}_ms": getattr(token, f"{part}_s") * MS for part in ("compute", "transfer", "software")},
            **{f"predicted_{part}_ms": value * MS for part, value in split.get(token.step, {}).items()},
        }
        for token in tokens.itertuples()
    ]  # fmt: skip


def save(parts: store.Parts) -> None:
    """Write the table from the finished parts."""
    rows = [row for number in range(len(CASES)) for row in parts.find(str(number)) or []]
    found = calibration.host_calibration()
    store.save(NAME, pd.DataFrame(rows), store.how_obtained(
        f"sudo .venv/bin/python -m benchmarks.results.{NAME}", "emulated", parts.seconds(), [1],
        [f"calibrated before: {found.hop_overhead_s * 1e3:.3f} ms of software for a hop"],
        hop_overhead_s=found.hop_overhead_s, pacing_floor_s=found.pacing_floor_s,
        commit=parts.commits(), runs_missing=sum(parts.find(str(number)) is None for number in range(len(CASES))),
    ))  # fmt: skip


# --- the page --------------------------------------------------------------------------------------------------


def section(frame: pd.DataFrame, how: store.How) -> str:
    """The section of the page on predicted and emulated tokens."""
    from benchmarks.results.drawing import image

    cases = summed_up(frame)
    draw(cases)
    worst = cases.loc[cases["median"].idxmax()]
    kept = int((cases["median"] <= cases["limit"]).sum())
    faithful = int(cases["faithful"].sum())
    rows = [
        [
            case.case, case.policy, case.tokens, f"{case.median:.1%}", f"{case.p90:.1%}", f"{case.limit:.0%}",
            *(f"{getattr(case, part):+.1f}" for part in PARTS), f"{case.rest:+.1f}",
        ]
        for case in cases.itertuples()
    ]  # fmt: skip
    headings = ["experiment", "policy", "tokens", "median error", "90th percentile", "must be", "computing, ms",
                "links, ms", "software, ms", "all, ms"]  # fmt: skip
    text = [
        "## Prediction: is the cost model right?",
        prose(f"""Policies decide by the cost model, and every simulated figure on this page rests on it. So
            {len(cases)} experiments were emulated, and each token was compared with its prediction: {kept} of
            {len(cases)} medians are within their limit, and the largest is {worst["median"]:.1%}
            ({worst["case"]}). {faithful} of the {len(cases)} runs were faithful by their own verdict. The time
            per hop, {how["hop_overhead_s"] * 1e3:.3f} ms, was calibrated just before."""),
        image(NAME, "Median error of each experiment, and how it splits into computing, links and software"),
        table(headings, [[None if cell == "+nan" else cell for cell in row] for row in rows]),
        prose("""The error is |predicted − emulated| / emulated of a decoded token. The last four columns are emulated
            minus predicted time along the critical path of each: in blocks, on links, in software, and all together.
            They are medians, so the parts add up only roughly. Where two ways through a layer are almost equally long,
            the emulated path may be the other one; then one part is above its prediction and another below. On the
            time clock conditions change within an interval, so no parts are given."""),
        store.obtained(how),
    ]
    return "\n\n".join(text)


def twin_table(frame: pd.DataFrame) -> str:
    """The table of docs/twin.md that compares simulated with emulated tokens."""
    rows = [
        [
            case.case, case.policy, case.tokens + 1, f"{100 * case.twin_median:.1f} %", f"{100 * case.twin_p90:.1f} %",
            f"{case.total_s:.1f} s / {case.simulated_total_s:.1f} s", int(case.migrations),
        ]
        for case in summed_up(frame).itertuples()
    ]  # fmt: skip
    headings = [
        "experiment",
        "policy",
        "tokens",
        "median",
        "90th percentile",
        "total, emulated / simulated",
        "blocks moved",
    ]
    return table(headings, rows)


def summed_up(frame: pd.DataFrame) -> pd.DataFrame:
    """A row for each case: the median and the 90th percentile of the error, and the mean residual by part."""
    rows = []
    for (case, policy), own in frame.groupby(["case", "policy"], sort=False):
        error = (own["predicted_ms"] - own["emulated_ms"]).abs() / own["emulated_ms"]
        twin = (own["simulated_ms"] - own["emulated_ms"]).abs() / own["emulated_ms"]
        first = own.iloc[0]
        rows.append(
            {
                "case": case, "policy": policy, "tokens": len(own), "limit": first["limit"],
                "median": error.median(), "p90": error.quantile(0.9),
                "twin_median": twin.median(), "twin_p90": twin.quantile(0.9),
                **{part: (own[f"{part}_ms"] - own[f"predicted_{part}_ms"]).median() for part in PARTS},
                "rest": (own["emulated_ms"] - own["predicted_ms"]).median(),
                "faithful": bool(first["verdict_ok"]),
                **{key: first[key] for key in KEPT_OF_RUN},
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def draw(cases: pd.DataFrame) -> None:
    """Draw the errors (left) and their parts (right)."""
    from benchmarks.results.drawing import FULL_WIDTH, drawn, part_colours

    names = [f"{case.case.replace('`', '')}\n{case.policy}" for case in cases.itertuples()]
    places = range(len(cases))
    with drawn(NAME, FULL_WIDTH, 3.4, columns=2) as (_, (errors, parts)):
        errors.barh(places, 100 * cases["median"], color="#9a9a9a", height=0.6, label="median")
        errors.scatter(100 * cases["p90"], places, color="#333333", marker="|", s=60, label="90th percentile")
        errors.scatter(100 * cases["limit"], places, color="#b2182b", marker="x", s=18, label="limit of the median")
        errors.set_yticks(list(places), names)
        errors.set_xlabel("|predicted − emulated| / emulated (%)")
        errors.set_xlim(0, 14)
        for offset, (part, colour) in zip((-0.25, 0.0, 0.25), part_colours().items(), strict=True):
            parts.barh([place + offset for place in places], cases[part], height=0.25, color=colour, label=part)
        parts.scatter(cases["rest"], places, color="black", marker="D", s=12, zorder=3, label="all")
        parts.axvline(0, color="#333333", linewidth=0.6)
        parts.set_yticks(list(places), [""] * len(cases))
        parts.set_xlabel("emulated − predicted (ms per token)")
        for axes in (errors, parts):
            axes.invert_yaxis()
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)


if __name__ == "__main__":
    main()
