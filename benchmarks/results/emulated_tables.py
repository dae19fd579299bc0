"""The section on emulated cells: tables and a figure of predictions, measurements and their ratios between policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.ticker import FixedLocator, NullLocator

from benchmarks.results import store
from benchmarks.results.paired import DONE, counted, prose, table

RATIO_LIMIT = 0.03  # of the median error of a ratio
NAME = "emulated"
TICKS = (0.8, 0.9, 1, 1.1, 1.2, 1.4, 1.6, 1.8, 2, 3, 4)


def pairs_of(frame: pd.DataFrame) -> pd.DataFrame:
    """A row for each cell and repetition in which both policies ended, with the errors of both and of their ratio."""
    done = frame[frame["status"] == DONE]
    sides = [done[done["first"] == first].set_index(["cell", "repetition"]) for first in (True, False)]
    both = sides[0].join(sides[1].add_suffix("_2"), how="inner")
    for end in ("", "_2"):
        both[f"error{end}"] = both[f"predicted_ms{end}"] / both[f"emulated_ms{end}"] - 1
    both["predicted_ratio"] = both["predicted_ms_2"] / both["predicted_ms"]
    both["emulated_ratio"] = both["emulated_ms_2"] / both["emulated_ms"]
    both["ratio_error"] = both["predicted_ratio"] / both["emulated_ratio"] - 1
    both["faithful"] = both["verdict_ok"].astype(bool) & both["verdict_ok_2"].astype(bool)
    both["same"] = (both["predicted_ratio"] - 1).abs() < 1e-9  # most likely the same placement
    return both.reset_index()


def section(frame: pd.DataFrame, how: store.How) -> str:
    """The section of the page."""
    from benchmarks.results.drawing import image

    pairs = pairs_of(frame)
    draw(pairs)
    runs = frame[frame["status"] == DONE]
    median = pairs["ratio_error"].abs().median()
    held = "held" if median < RATIO_LIMIT else "**did not hold**"
    apart = pairs[~pairs["same"]]
    tokens = sorted(set(runs["tokens"]))
    text = [
        "## Emulated cells: are differences between policies predicted?",
        prose(f"""Claims rest on ratios of policies, and these are predicted. So {how["cells"]} cells were emulated
            under two policies each: one drawn from each stratum of model, number of devices (4, 6, 8), memory (loose,
            or 1.4 times the model) and prompt (32 or 256 tokens), and the paper's small setting: one layer of 32 heads
            on 3 and 5 devices bound by compute. {counted(len(runs), "run")} ended, of {len(frame)} that were begun.
            **The median error of a ratio is {median:.1%}**; that it is under {RATIO_LIMIT:.0%} {held}
            ({_within(pairs["ratio_error"])} are within it). That of a token is {_errors(pairs).abs().median():.1%}.
            {int(runs["verdict_ok"].sum())} runs were faithful by their own verdict. Without the
            {counted(int(pairs["same"].sum()), "pair")} for which the same time was predicted under both policies, the
            median error of a ratio is {apart["ratio_error"].abs().median():.1%}."""),
        image(NAME, "Left: measured against predicted ratios of policies. Right: the share of errors below a limit"),
        groups(pairs),
        prose(f"""A ratio is the second policy's median token over that of the first. Its error is predicted over
            measured, minus 1, and so is that of a token. The time per hop was calibrated before. *Held*: by the dry
            run's rule, with this calibration, this host keeps up.
            Weights of GPT-2 and of the layer-reduced TinyLlama are random. Each run generated
            {_named(tokens)} tokens, fewer where a token takes long."""),
        "**Each cell.**",
        cells(pairs),
        prose("""*Slowed* is how many times slower than real time the cell was emulated. Predicted and measured are
            milliseconds of emulated time per token under the first and the second policy, repetition 1."""),
        doubts(frame),
        "**Repeated cells.**",
        repeated(pairs),
        store.obtained(how),
    ]  # fmt: skip
    return "\n\n".join(part for part in text if part)


def groups(pairs: pd.DataFrame) -> str:
    """The errors of ratios and tokens, by kind of cell."""
    held = pairs["held"].astype(bool) & pairs["held_2"].astype(bool)
    parts = [("all", pairs), ("faithful", pairs[pairs["faithful"]]), ("not faithful", pairs[~pairs["faithful"]]),
             ("held, not slowed", pairs[held & (pairs["dilation"] == 1)]),
             ("not held, not slowed", pairs[~held & (pairs["dilation"] == 1)]),
             ("slowed", pairs[pairs["dilation"] > 1])]  # fmt: skip
    for column in ("model", "devices", "memory", "context"):
        parts += [(f"{column}: {value}", own) for value, own in pairs.groupby(column, sort=False)]
    loose = pairs[(pairs["memory"] == "loose") & (pairs["predicted_ratio"] >= 1.15)]
    parts.append(("loose, predicted ratio of 1.15 or more", loose))
    lines = [
        [
            name, len(own), f"{own['ratio_error'].abs().median():.1%}", f"{own['ratio_error'].abs().quantile(0.9):.1%}",
            f"{own['ratio_error'].abs().max():.1%}", f"{_errors(own).abs().median():.1%}",
            f"{_errors(own).median():+.1%}", f"{own['faithful'].mean():.0%}",
        ]
        for name, own in parts
        if len(own)
    ]  # fmt: skip
    headings = ["pairs of runs", "number", "error of ratio, median", "90th percentile", "largest",
                "error of token, median", "with sign", "both faithful"]  # fmt: skip
    return table(headings, lines)


def cells(pairs: pd.DataFrame) -> str:
    """The table of all cells, from the first repetition."""
    lines = []
    first = pairs[pairs["repetition"] == 0].sort_values(["model", "devices", "memory", "context"])
    for pair in first.to_dict("records"):
        lines.append([
            named(pair), f"{pair['policy']}, {pair['policy_2']}", f"{pair['dilation']}x", pair["tokens"],
            _both(pair, "predicted_ms", ".1f"), _both(pair, "emulated_ms", ".1f"), _both(pair, "error", "+.1%"),
            f"{pair['predicted_ratio']:.3f}", f"{pair['emulated_ratio']:.3f}", f"{pair['ratio_error']:+.1%}",
            _verdict(pair),
        ])  # fmt: skip
    headings = ["cell", "policies", "slowed", "tokens", "predicted, ms", "measured, ms", "errors", "ratio predicted",
                "measured", "its error", "faithful"]  # fmt: skip
    return table(headings, lines)


def doubts(frame: pd.DataFrame) -> str:
    """Why runs were not faithful or failed, one line for each."""
    lines = []
    for run in frame.to_dict("records"):
        where = f"{named(run)}, `{run['policy']}`, repetition {run['repetition'] + 1}"
        if run["status"] != DONE:
            lines.append(f"- {where}: {run['status']}: {run['reason']}")
        elif not run["verdict_ok"]:
            lines.append(f"- {where}: {run['reason'].split(': use slower')[0].split(': stop what')[0]}")
    if not lines:
        return "All runs ended, and all were faithful."
    return "\n".join(["Runs that were not faithful or did not end, with the reason:", "", *lines])


def repeated(pairs: pd.DataFrame) -> str:
    """How far repetitions of a cell lie apart."""
    lines = []
    for _, own in pairs.groupby("cell", sort=False):
        if len(own) > 1:
            spread = [own[column].max() / own[column].min() - 1 for column in
                      ("emulated_ms", "emulated_ms_2", "emulated_ratio")]  # fmt: skip
            first = own.to_dict("records")[0]
            errors = ", ".join(f"{error:+.1%}" for error in own["ratio_error"])
            lines.append([named(first), len(own), *(f"{value:.1%}" for value in spread), errors])
    if not lines:
        return "No cell was repeated."
    headings = ["cell", "repetitions", "first policy: longest over shortest", "second policy", "ratio",
                "errors of the ratio"]  # fmt: skip
    return table(headings, lines)


def draw(pairs: pd.DataFrame) -> None:
    """Draw measured against predicted ratios (left), and how many errors are below a limit (right)."""
    from benchmarks.results.drawing import FULL_WIDTH, drawn

    colours = dict(zip(sorted(set(pairs["model"])), ("#332288", "#88ccee", "#117733", "#882255"), strict=False))
    with drawn(NAME, FULL_WIDTH, 3.2, columns=2) as (_, (ratios, errors)):
        ends = [0.98 * pairs[["predicted_ratio", "emulated_ratio"]].min().min(),
                1.02 * pairs[["predicted_ratio", "emulated_ratio"]].max().max()]  # fmt: skip
        ratios.plot(ends, ends, color="#333333", linewidth=0.6)
        ratios.fill_between(ends, [end * (1 - RATIO_LIMIT) for end in ends], [end * (1 + RATIO_LIMIT) for end in ends],
                            color="#333333", alpha=0.12, linewidth=0, label=f"within {RATIO_LIMIT:.0%}")  # fmt: skip
        for model, own in pairs.groupby("model"):
            for faithful, some in own.groupby("faithful"):
                ratios.scatter(some["predicted_ratio"], some["emulated_ratio"], s=14, linewidths=0.8, marker="o",
                               facecolors=colours[model] if faithful else "none", edgecolors=colours[model],
                               label=model if faithful else f"{model}, not faithful")  # fmt: skip
        ratios.set_xscale("log")
        ratios.set_yscale("log")
        ratios.set_xlabel("predicted ratio of two policies (logarithmic)")
        ratios.set_ylabel("measured ratio (logarithmic)")
        for axis in (ratios.xaxis, ratios.yaxis):
            axis.set_major_locator(FixedLocator([tick for tick in TICKS if ends[0] <= tick <= ends[1]]))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_locator(NullLocator())
        ratios.legend(loc="upper left", fontsize=6)
        kinds = (
            ("ratio of policies", pairs["ratio_error"], "#333333", "-"),
            ("token", _errors(pairs), "#9a9a9a", "--"),
        )
        for label, values, colour, dash in kinds:
            ranked = sorted(100 * values.abs())
            shares = [100 * number / len(ranked) for number in range(len(ranked) + 1)]
            errors.step([0, *ranked], shares, where="post",
                        color=colour, linestyle=dash, label=label)  # fmt: skip
        errors.axvline(100 * RATIO_LIMIT, color="#333333", linewidth=0.6, linestyle=":")
        errors.axhline(50, color="#333333", linewidth=0.6, linestyle=":")
        errors.set_xlim(left=0)
        errors.set_ylim(0, 100)
        errors.set_xlabel("|predicted − measured| / measured (%)")
        errors.set_ylabel("share with at most this error (%)")
        errors.legend(loc="lower right")


def named(cell: Mapping[Any, Any]) -> str:
    """A cell in words."""
    keys = ("model", "devices", "memory", "context", "delay_ms", "rate_Mbps", "streaming_MBps", "seed")
    model, devices, memory, context, delay, rate, streaming, seed = (cell[key] for key in keys)
    if model == "one layer of 32 heads":
        return f"{model}, {devices} devices, seed {seed}"
    return (f"{model}, {devices} devices, {memory}, {context}, {delay:g} ms, {rate:g} Mbit/s, {streaming:g} MB/s, "
            f"seed {seed}")  # fmt: skip


def _both(pair: Mapping[Any, Any], column: str, form: str) -> str:
    return f"{pair[column]:{form}}, {pair[f'{column}_2']:{form}}"


def _verdict(pair: Mapping[Any, Any]) -> str:
    policies = [(pair[f"policy{end}"], pair[f"verdict_ok{end}"]) for end in ("", "_2")]
    unfaithful = [policy for policy, faithful in policies if not faithful]
    return f"not {' and '.join(unfaithful)}" if unfaithful else "yes"


def _errors(pairs: pd.DataFrame) -> pd.Series:
    return pd.concat([pairs["error"], pairs["error_2"]])


def _within(errors: pd.Series) -> str:
    return f"{int((errors.abs() <= RATIO_LIMIT).sum())} of {len(errors)}"


def _named(values: Sequence[int]) -> str:
    return " or ".join(map(str, values))
