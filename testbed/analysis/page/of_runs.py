"""The figures that compare runs: latency over tokens, its distribution, its parts, and what was predicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import to_hex

from testbed.analysis.load import Run
from testbed.analysis.metrics import MS, losses, mean_stalls, migrated_before, tokens_to_decode
from testbed.analysis.page.chart import HEIGHT, WIDE, ZOOM, Chart, Spec, coloured, mark_rule, quantity, tips
from testbed.analysis.plots.marks import most_changed, oom_mark, trace_marks
from testbed.analysis.plots.style import GREY, LOG_SPREAD, MOST_LINES, Alike, alike, policies, policy_colours, run_names

MOST_POINTS = 2_000  # of one group in a scatter plot
STEPS = 400  # of a distribution
DASHES = ([1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [10, 4], [4, 2, 1, 2, 1, 2])
PARTS = {"compute_s": "devices compute", "transfer_s": "links carry", "software_s": "software"}
PART_COLOURS = {"devices compute": "#0173b2", "links carry": "#de8f05", "software": "#949494"}


def charts_of_runs(runs: Sequence[Run]) -> list[Chart]:
    """All figures that compare runs and for which they have data."""
    if not any(len(run.decoded) for run in runs):
        return []
    return [
        _latency(runs),
        *([_stalls(runs)] if any(run.decisions["stall_s"].fillna(0.0).gt(0).any() for run in runs) else []),
        _distribution(runs),
        *([_parts(runs)] if len(runs) <= MOST_LINES and any(map(_has_parts, runs)) else []),
        *([_prediction(measured)] if (measured := [run for run in runs if _is_predicted(run)]) else []),
    ]


def _simulated(runs: Sequence[Run]) -> bool:
    return all(run.simulated for run in runs)


def _series(groups: Sequence[Alike] | None, runs: Sequence[Run]) -> tuple[Spec, Spec]:
    """The colour of each line, by its policy, and its dash, by its place among those of its policy."""
    colours = {name: to_hex(colour) for name, colour in policy_colours(policies(runs)).items()}
    named: list[tuple[str, str]] = (
        [(group.name, group.policy) for group in groups]
        if groups is not None
        else list(zip(run_names(runs), (run.policy for run in runs), strict=True))
    )
    seen: dict[str, int] = {}
    dashes = []
    for _, policy in named:
        dashes.append(DASHES[seen.setdefault(policy, 0) % len(DASHES)])
        seen[policy] += 1
    colour = coloured("series", {name: colours[policy] for name, policy in named})
    scale = {"domain": [name for name, _ in named], "range": dashes}
    return colour, {"field": "series", "type": "nominal", "title": None, "scale": scale, "legend": colour["legend"]}


def _dashed(groups: Sequence[Alike] | None, runs: Sequence[Run]) -> tuple[Spec, Spec]:
    """What `_series` returns, for a figure of lines: its legend shows their dashes."""
    colour, dash = _series(groups, runs)
    stroke = {"symbolType": "stroke", "symbolSize": 500, "symbolStrokeWidth": 2, "symbolOpacity": 1}
    return colour | {"legend": colour["legend"] | stroke}, dash | {"legend": dash["legend"] | stroke}


def _latency(runs: Sequence[Run]) -> Chart:
    few = len(runs) <= MOST_LINES
    groups = alike(runs)
    if few:
        rows = pd.concat([_tokens(run, name) for run, name in zip(runs, run_names(runs), strict=True)])
    else:
        rows = pd.concat([_range(group) for group in groups])
    colour, dash = _dashed(None if few else groups, runs)
    token = quantity("token", "Token", axis={"tickMinStep": 1})
    latency = quantity("latency_ms", "Token latency (ms)", scale=_scale(rows["latency_ms"]))
    also = {"predicted_ms": "predicted ms"} if few else {"low_ms": "least ms", "high_ms": "most ms"}
    tooltip = tips({"series": "run", "token": "token"}, {"latency_ms": "ms"} | also)
    line: Spec = {
        "params": [ZOOM],
        "mark": {"type": "line", "size": 1.5, "clip": True},
        "encoding": {"x": token, "y": latency, "color": colour, "strokeDash": dash},
    }
    points: Spec = {
        "mark": {"type": "point", "size": 60, "opacity": 0, "filled": True, "clip": True},
        "encoding": {"x": token, "y": latency, "color": colour, "tooltip": tooltip},
    }
    layers = [mark_rule("Token"), line, points]
    if few:
        moved = {"type": "point", "shape": "triangle-up", "size": 90, "filled": True, "clip": True}
        more = {"x": token, "y": latency, "color": colour, "tooltip": tooltip}
        layers.append({"transform": [{"filter": "datum.migrated"}], "mark": moved, "encoding": more})
        how = "A line for each run. A triangle marks a token before which blocks were migrated"
    else:
        band = {"x": token, "y": latency | {"field": "low_ms"}, "y2": {"field": "high_ms"}}
        area = {"type": "area", "opacity": 0.18, "clip": True}
        layers.insert(1, {"mark": area, "encoding": band | {"color": colour}})
        how = "A line is the mean of runs that differ in their seed at most, and the band their range"
    marks = [{"at": mark.step, "change": mark.text.replace("\n", "; ")} for mark in trace_marks(most_changed(runs))]
    if few:
        kills = ((run, oom_mark(run)) for run in runs)
        marks += [{"at": mark.step, "change": f"{run.policy}: {mark.text}"} for run, mark in kills if mark is not None]
        lost = [(run.policy, step, names) for run in runs for step, names in losses(run).items()]
        marks += [{"at": step, "change": f"{policy}: {names} lost"} for policy, step, names in lost]
    spec = WIDE | {"height": HEIGHT, "layer": layers}
    shown = f"{how}; a dashed line, a change of the trace, a lost device or an OOM kill."
    return Chart("token-latency", "Token latency", shown, rows, spec, _simulated(runs), marks)


def _tokens(run: Run, name: str) -> pd.DataFrame:
    decoded = run.decoded
    return pd.DataFrame(
        {
            "series": name,
            "token": decoded["step"],
            "latency_ms": decoded["latency_s"] * MS,
            "predicted_ms": decoded["predicted_s"] * MS,
            "migrated": decoded["step"].isin(migrated_before(run)),
        }
    )


def _range(group: Alike) -> pd.DataFrame:
    every = pd.concat([run.decoded[["step", "latency_s"]] for run in group.runs])
    found = (every.groupby("step")["latency_s"].agg(["mean", "min", "max", "count"])).reset_index()
    columns = {"token": found["step"], "latency_ms": MS * found["mean"], "low_ms": MS * found["min"]}
    return pd.DataFrame({"series": group.name} | columns | {"high_ms": MS * found["max"], "runs": found["count"]})


def _scale(values: pd.Series[Any], zero: bool = True) -> Spec:
    least, most = values.min(), values.max()
    return {"type": "log"} if most > LOG_SPREAD * least > 0 else {"zero": zero}


def _stalls(runs: Sequence[Run]) -> Chart:
    groups = alike(runs)
    rows = []
    for group in groups:
        mean = mean_stalls(group.runs)
        rows.append(pd.DataFrame({"series": group.name, "token": mean.index, "stall_s": mean.to_numpy()}))
    colour, _ = _series(groups, runs)
    last = max(run.tokens["step"].max() for run in runs if len(run.tokens))
    spec = WIDE | {
        "height": HEIGHT // 3,
        "params": [ZOOM],
        "mark": {"type": "bar", "width": 4, "opacity": 0.75, "clip": True},
        "encoding": {
            "x": quantity("token", "Token", axis={"tickMinStep": 1}, scale={"domain": [0, int(last)]}),
            "y": quantity("stall_s", "Stall (s)", stack=None),
            "color": colour,
            "tooltip": tips({"series": "runs", "token": "before token"}, {"stall_s": "s"}),
        },
    }
    shown = "Decode time lost to migrations before a token, as the mean of runs that differ in their seed at most."
    return Chart("stalls", "Stalls", shown, pd.concat(rows), spec, _simulated(runs))


def _distribution(runs: Sequence[Run]) -> Chart:
    groups = alike(runs)
    rows = []
    for group in groups:
        latency = np.sort(np.concatenate([(run.decoded["latency_s"] * MS).to_numpy() for run in group.runs]))
        if not len(latency):
            continue
        at = np.unique(np.linspace(0, len(latency) - 1, min(STEPS, len(latency))).round().astype(int))
        share = (at + 1) / tokens_to_decode(group.runs)
        rows.append(pd.DataFrame({"series": group.name, "latency_ms": latency[at], "share": share}))
    every = pd.concat(rows)
    colour, dash = _dashed(groups, runs)
    x = quantity("latency_ms", "Token latency (ms)", scale=_scale(every["latency_ms"], zero=False))
    y = quantity("share", "Share of the tokens asked for", axis={"format": "%"}, scale={"domain": [0, 1]})
    tooltip = [*tips({"series": "runs"}, {"latency_ms": "at most ms"}), quantity("share", "share", format=".1%")]
    spec = WIDE | {
        "height": HEIGHT,
        "layer": [
            {
                "params": [ZOOM],
                "mark": {"type": "line", "interpolate": "step-after", "size": 1.5, "clip": True},
                "encoding": {"x": x, "y": y, "color": colour, "strokeDash": dash},
            },
            {
                "mark": {"type": "point", "size": 60, "opacity": 0, "filled": True, "clip": True},
                "encoding": {"x": x, "y": y, "color": colour, "tooltip": tooltip},
            },
        ],
    }
    shown = (
        "The share of decode tokens that took at most so long. A run that was killed or cut short does not reach "
        "100 %: the tokens that it still owes count as never done."
    )
    return Chart("latency-distribution", "Distribution of latency", shown, every, spec, _simulated(runs))


def _has_parts(run: Run) -> bool:
    return bool(run.decoded[list(PARTS)].notna().all(axis=1).any())


def _parts(runs: Sequence[Run]) -> Chart:
    rows = []
    for run, name in zip(runs, run_names(runs), strict=True):
        means = {column: float(run.decoded[column].mean()) * MS for column in PARTS}
        rows += [{"series": name, "part": PARTS[part], "ms": ms} for part, ms in means.items() if pd.notna(ms)]
    order = {"field": "order", "type": "quantitative"}
    frame = pd.DataFrame(rows)
    frame["order"] = frame["part"].map({part: number for number, part in enumerate(PART_COLOURS)})
    colour = coloured("part", PART_COLOURS) | {"legend": {"orient": "top"}}
    spec = WIDE | {
        "height": 26 * len(runs),
        "mark": "bar",
        "encoding": {
            "y": {"field": "series", "type": "nominal", "title": None, "sort": None, "axis": {"labelLimit": 260}},
            "x": quantity("ms", "Mean token latency (ms)"), "color": colour, "order": order,
            "tooltip": tips({"series": "run", "part": "part"}, {"ms": "ms"}),
        },
    }  # fmt: skip
    shown = "What the mean decode token consists of, on its critical path; testbed explain says more."
    return Chart("parts", "Parts of the mean token", shown, frame, spec, _simulated(runs))


def _is_predicted(run: Run) -> bool:
    """Whether a prediction says anything: that of a simulated run is its result."""
    return not run.simulated and bool(run.decoded["predicted_s"].notna().any())


def _prediction(runs: Sequence[Run]) -> Chart:
    groups = alike(runs)
    rows = []
    for group in groups:
        every = pd.concat([run.decoded for run in group.runs]).dropna(subset=["predicted_s"])
        every = every.iloc[:: max(1, -(-len(every) // MOST_POINTS))]
        rows.append(
            pd.DataFrame(
                {
                    "series": group.name,
                    "token": every["step"],
                    "predicted_ms": MS * every["predicted_s"],
                    "latency_ms": MS * every["latency_s"],
                }
            )
        )
    frame = pd.concat(rows)
    both = pd.concat([frame["predicted_ms"], frame["latency_ms"]])
    ends = [{"at": float(both.min())}, {"at": float(both.max())}]
    scale = _scale(both, zero=False)
    colour, _ = _series(groups, runs)
    equal: Spec = {
        "data": {"name": "marks"},
        "mark": {"type": "line", "strokeDash": [3, 3], "color": GREY},
        "encoding": {"x": quantity("at", "Predicted (ms)"), "y": quantity("at", "Measured (ms)")},
    }
    points: Spec = {
        "params": [ZOOM],
        "mark": {"type": "point", "size": 22, "opacity": 0.6, "filled": True, "clip": True},
        "encoding": {
            "x": quantity("predicted_ms", "Predicted (ms)", scale=scale),
            "y": quantity("latency_ms", "Measured (ms)", scale=scale),
            "color": colour,
            "tooltip": tips(
                {"series": "runs", "token": "token"}, {"predicted_ms": "predicted ms", "latency_ms": "measured ms"}
            ),
        },
    }
    spec = WIDE | {"height": HEIGHT, "layer": [equal, points]}
    shown = "Each decode token's latency beside the cost model's prediction; on the dashed line both are equal."
    return Chart("prediction", "Predicted and measured", shown, frame, spec, False, ends)
