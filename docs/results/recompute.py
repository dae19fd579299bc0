"""Draws 20 numbers of docs/results.md and recomputes each from the Parquet files beside this script.

It uses plain pandas and nothing of this project, so a mistake in the project's own tables would show here. Every table
named in RECIPES takes part with all of its numbers. `python docs/results/recompute.py [SEED]`
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

RIVALS = ("edgeshard", "galaxy")
NAMES = {"paper's": "paper", "honest": "honest", "roomy": "roomy"}  # of settings
HERE = Path(__file__).resolve().parent
DRAWN, SEED = 20, 2505
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")
COST = "mean_token_with_stall_ms"


class Cell(NamedTuple):
    """A cell of a table of the page."""

    section: str
    caption: str  # the text just above the table
    row: str  # the first column
    heading: str
    text: str
    line: tuple[str, ...]  # the row's columns before this one


def cells(page: str) -> Iterator[Cell]:
    """Every cell of every table, but for the first column."""
    section, caption, lines = "", "", page.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("## "):
            section = line[3:]
        elif line and not line.startswith("|"):
            caption = line
        if line.startswith("|") and not lines[number - 1].startswith("|"):
            headings = [one.strip() for one in line.strip("|").split("|")]
            for below in lines[number + 2 :]:
                if not below.startswith("|"):
                    break
                values = [one.strip() for one in below.strip("|").split("|")]
                for column in range(1, len(values)):
                    yield Cell(section, caption, values[0], headings[column], values[column], tuple(values[:column]))


def data(name: str) -> pd.DataFrame:
    """A table, with today's names of policies."""
    frame = pd.read_parquet(HERE / f"{name}.parquet")
    frame["policy"] = frame["policy"].replace(
        {
            "resource-aware": "paper-search",
            "resource-aware, scores alone": "paper-search, scores alone",
            "benchmarks/results/frozen.py:ResourceAwareFrozen": "paper-search, first placement",
        }
    )
    return frame


def runs_of(name: str, keys: list[str]) -> pd.DataFrame:
    """The rows of `small` or `medium`; of EdgeShard's two runs of an instance, those of the better."""
    frame = data(name)
    both = frame[frame.policy.str.startswith("edgeshard")].drop_duplicates([*keys, "policy"])
    order = both.assign(lacking=both.tokens_asked - both.tokens_done).sort_values(["lacking", COST, "policy"])
    best = {tuple(run[key] for key in keys): run["policy"] for run in order[::-1].to_dict("records")}
    chosen = [best.get(tuple(run)) for run in frame[keys].itertuples(index=False)]
    frame = frame[~frame.policy.str.startswith("edgeshard") | (frame.policy == pd.Series(chosen, index=frame.index))]
    return frame.assign(policy=frame.policy.str.replace(r"^edgeshard.*", "edgeshard", regex=True))


def interval(values: list[float]) -> list[float]:
    """Mean and 95 % bootstrap interval: 10,000 resamples drawn with seed 0."""
    numbers = np.array(values, dtype=float)
    if len(numbers) == 0:
        return []
    if len(numbers) == 1:
        return [numbers[0]]
    at = np.random.default_rng(0).integers(0, len(numbers), (10_000, len(numbers)))
    low, high = np.percentile(numbers[at].mean(axis=1), (2.5, 97.5))
    return [numbers.mean(), low, high]


# --- a recipe for each table: the numbers that a cell must show ----------------------------------------------------


def small(cell: Cell) -> list[float]:
    """Whole runs over the least that a run takes."""
    frame = runs_of("small", ["setting", "devices", "seed"])
    frame = frame[frame["setting"] == ("paper" if "paper-small" in cell.caption else "honest")]
    least = frame[frame.policy == "least"]
    mine = frame[frame.policy == cell.row]
    both = mine[mine.status == "done"].merge(least, on=["devices", "seed"], suffixes=("", "_least"))
    both = both.sort_values(["devices", "seed"])
    ratios = both[COST] / both[COST + "_least"]
    if cell.heading.endswith("devices"):
        return [ratios[both.devices == int(cell.heading[0])].mean()]
    return {
        "all sizes": lambda: interval(ratios.tolist()), "over": lambda: [len(ratios)],
        "not finished": lambda: [(mine.status != "done").sum()],
        "within 20%": lambda: [100 * (ratios <= 1.2).mean()], "worst": lambda: [ratios.max()],
    }[cell.heading]()  # fmt: skip


def medium(cell: Cell) -> list[float]:
    """25 devices and 1000 tokens."""
    frame = runs_of("medium", ["setting", "seed"])
    setting = "paper" if "paper-medium" in cell.caption else "roomy" if "4 x model" in cell.caption else "honest"
    frame = frame[frame["setting"] == setting]
    runs = frame.drop_duplicates(["policy", "seed"])
    mine = runs[runs.policy == cell.row]
    done = mine[mine.status == "done"]
    peaks = frame[frame.policy == cell.row].groupby("seed")[["most_share", "most_bytes", "total_bytes"]].max()
    if cell.heading.startswith("over "):
        base = runs[(runs.policy == cell.heading[5:-2]) & (runs.status == "done")]
        both = done.merge(base, on="seed", suffixes=("", "_base")).sort_values("seed")
        ratios = (both[COST] / both[COST + "_base"]).tolist()
        return [*interval(ratios), len(ratios)]
    trouble = []
    for run in mine.itertuples():
        ends = [run.tokens_asked, run.tokens_asked if run.status == "done" else run.tokens_done]
        trouble.append(min([*ends, *([] if pd.isna(run.refused_at) else [run.refused_at])]))
    return {
        "finished": lambda: [len(done), len(mine)], "tokens before trouble": lambda: [np.mean(trouble)],
        "time, ms": lambda: [done[COST].mean()],
        "deciding, ms per token": lambda: [(done.decision_ms / (done.tokens_done - 1)).mean()],
        "fullest device": lambda: [100 * peaks.most_share.mean()],
        "most on a device, MiB": lambda: [peaks.most_bytes.mean() / 2**20],
        "most in all, MiB": lambda: [peaks.total_bytes.mean() / 2**20],
    }[cell.heading]()  # fmt: skip


def worth(cell: Cell) -> list[float]:
    """Migrating policies beside the best static placement."""
    frame = data("worth")
    memory = re.search(r"[\d.]+ x model", cell.caption)
    devices, scenario = cell.row.split(" devices, ")
    own = frame[(frame.memory == (memory or [""])[0]) & (frame.devices == int(devices)) & (frame.scenario == scenario)]
    static = own[own.policy == "static"]
    done = static[static.status == "done"].groupby("reserve").token_ms
    order = sorted(done, key=lambda pair: (-len(pair[1]), pair[1].mean()))
    reserve = order[0][0] if order else 0.0
    still = static[static.reserve == reserve].set_index("seed")
    if cell.heading == "static: reserve":
        return [reserve]
    who, _, what = cell.heading.partition(": ")
    mine = still if who == "static" else own[own.policy == who].set_index("seed")
    if what == "finished":
        return [(mine.status == "done").sum(), len(mine)]
    saved = (1 - mine.token_ms / still.token_ms).dropna().sort_index()
    numbers = [100 * value for value in interval(saved.tolist())]
    return [*numbers, len(saved)] if len(saved) < 20 else numbers


def frozen(cell: Cell) -> list[float]:
    """Policies beside their own first placements."""
    frame = data("worth")
    memory, scenario = cell.row.split(", ")
    own = frame[(frame.memory == memory) & (frame.scenario == scenario)].set_index(["devices", "seed"])
    who, _, what = cell.heading.partition(": ")
    with_, without = own[own.policy == who], own[own.policy == who + ", first placement"]
    if what.startswith("finished without"):
        return [(without.status == "done").sum(), len(with_)]
    if what.startswith("with"):
        return [(with_.status == "done").sum(), len(with_)]
    saved = (1 - with_.token_ms / without.token_ms).dropna().sort_index()
    return [*(100 * value for value in interval(saved.tolist())), len(saved)]


def migration(cell: Cell) -> list[float]:
    """The emulated runs of gpt2-star4."""
    frame = data("migration")
    own = frame[(frame.backend == "mininet") & (frame.policy == cell.row)]
    done = own[own.status == "done"]

    def spread(values: pd.Series) -> list[float]:
        return [values.min(), values.max()] if "to" in cell.text else [values.min()]

    return {
        "runs": lambda: [len(own)], "killed by the kernel": lambda: [(own.status == "oom").sum()],
        "tokens": lambda: [own.tokens_done.mean()], "ms per token": lambda: spread(own.mean_token_ms),
        "with stalls, ms": lambda: spread(done[COST]), "stall, s": lambda: spread(done.stall_s),
        "blocks moved": lambda: spread(done.migrations), "faithful": lambda: [own.verdict_ok.sum(), len(own)],
    }[cell.heading]()  # fmt: skip


def emulated(cell: Cell) -> list[float]:
    """The predicted and measured times of a cell under two policies, and their ratios."""
    frame = data("emulated")
    frame = frame[(frame.status == "done") & (frame.repetition == 0)]
    words = {str(word) for word in re.split(r", ", cell.row)}
    found = [runs for _, runs in frame.groupby("cell") if f"seed {runs.seed.iloc[0]}" in words
             and f"{runs.devices.iloc[0]} devices" in words and cell.row.startswith(runs.model.iloc[0])
             and (len(words) == 3 or {runs.memory.iloc[0], runs.context.iloc[0]} <= words)]  # fmt: skip
    (runs,) = found
    pair = [runs[runs["first"] == first].iloc[0] for first in (True, False)]
    predicted, measured = ([one[column] for one in pair] for column in ("predicted_ms", "emulated_ms"))
    ratios = [predicted[1] / predicted[0], measured[1] / measured[0]]
    return {
        "slowed": lambda: [pair[0].dilation], "tokens": lambda: [pair[0].tokens], "predicted, ms": lambda: predicted,
        "measured, ms": lambda: measured, "ratio predicted": lambda: ratios[:1], "measured": lambda: ratios[1:],
        "errors": lambda: [100 * (one / other - 1) for one, other in zip(predicted, measured, strict=True)],
        "its error": lambda: [100 * (ratios[0] / ratios[1] - 1)],
    }[cell.heading]()  # fmt: skip


def gaps(cell: Cell) -> list[float]:
    """Single decisions beside the optimum."""
    layers = "one layer" if cell.caption.startswith("**One") else "four layers"
    frame = data("gaps")
    shards = 4 if "in 4 shards" in cell.caption else 1
    own = frame[(frame.setting == layers) & (frame.ffn_shards == shards) & (frame.policy == cell.row)]
    made = own[(own.status == "decided") & own.exact_s.notna()]
    gap = 100 * (made.cost_s / made.exact_s - 1)
    first, later = gap[made.decision == 0].clip(lower=0), gap[made.decision > 0].clip(lower=0)
    missed = own[own.status != "decided"]
    return {
        "decided": lambda: [len(made)], "not decided": lambda: [len(missed)],
        "possible": lambda: [missed.exact_s.notna().sum()], "first: mean": lambda: [first.mean()],
        "first: worst": lambda: [first.max()], "later: mean": lambda: [later.mean()],
        "later: worst": lambda: [later.max()], "first within 20%": lambda: [100 * (first <= 20).mean()],
    }[cell.heading]()  # fmt: skip


def regime_policies(cell: Cell) -> list[float]:
    """Each policy over the best of all in a cell of the grid."""
    frame = data("regimes")
    own = frame[(frame.part == "cell") & (frame.ffn_shards == 8)]
    times = own.pivot(index="cell", columns="policy", values="token_ms")
    names = ["headroom", "static", "single", "round-robin", "greedy", "dynamic-threshold", "edgeshard", "layerwise",
             "tensor-parallel", "galaxy", "paper-search"]  # fmt: skip
    ratios = (times[cell.row] / times[names].min(axis=1)).dropna()
    return {
        "cells without placement": lambda: [len(times) - len(ratios)],
        "within 1 % of the best": lambda: [100 * (ratios <= 1.01).sum() / len(ratios)],
        "median": lambda: [ratios.median()], "95th percentile": lambda: [ratios.quantile(0.95)],
        "largest": lambda: [ratios.max()],
    }[cell.heading]()  # fmt: skip


def claims(cell: Cell) -> list[float]:
    """The figures behind the verdicts."""
    number, setting, compared = cell.line[:3]
    method = cell.heading.strip("`")
    if number == "1":
        frame = runs_of("small", ["setting", "devices", "seed"])
        base = "exact" if "`exact`" in compared else "least"
        own = frame[(frame.setting == NAMES[setting]) & (frame.status == "done")].set_index(["devices", "seed"])
        mine, theirs = own[own.policy == method][COST], own[own.policy == base][COST]
        return interval((mine / theirs).dropna().sort_index().tolist())
    if number == "6" and setting != "paper's":
        frame = data("regimes")
        return heads_alone(frame[frame.part == "cell"])
    if number == "5" and setting != "paper's":
        return migrating(method, setting, compared)
    frame = runs_of("medium", ["setting", "seed"])
    frame = frame[frame.setting == NAMES[setting]]
    peaks = frame.groupby(["policy", "seed"])[["most_bytes", "total_bytes"]].max()
    runs = frame.drop_duplicates(["policy", "seed"]).set_index(["policy", "seed"])
    runs = runs.drop(columns=["most_bytes", "total_bytes"]).join(peaks)
    runs["charged"] = runs[COST] + runs.decision_ms / (runs.tokens_done - 1)
    done = runs[runs.status == "done"]
    if "runs that finish" in compared:
        finish = (runs.status == "done").astype(float)
        return [100 * one for rival in RIVALS for one in interval((finish[method] - finish[rival]).tolist())]
    if number == "5":
        return [
            100 * one for one in interval((1 - done.loc[method][COST] / done.loc["static"][COST]).dropna().tolist())
        ]
    words = {"bytes on one": "most_bytes", "bytes in all": "total_bytes", "charged": "charged"}
    column = next((column for word, column in words.items() if word in compared), COST)
    numbers = []
    for rival in RIVALS if number != "6" else RIVALS[:1]:
        have = rival in done.index.get_level_values(0)
        ratios = (done.loc[rival][column] / done.loc[method][column]).dropna().sort_index().tolist() if have else []
        count = runs.loc[rival].shape[0]
        numbers += interval(ratios) + ([len(ratios)] if 0 < len(ratios) < count and number != "6" else [])
        if not ratios:
            numbers += [(runs.loc[rival].status == "done").sum(), count]
    return numbers


def migrating(method: str, setting: str, compared: str) -> list[float]:
    """Migration beside the best static placement: means over fleets of means over their scenarios."""
    frame = data("worth")
    happens = {"with notice": ["announced", "returns", "all together"], "unannounced": ["unannounced"],
               "links only": ["links only"]}  # fmt: skip
    wanted = next(found for words, found in happens.items() if setting.endswith(words))
    memory = re.search(r"[\d.]+ x model", setting)
    frame = frame[(frame.memory == (memory or [""])[0]) & frame.scenario.isin(wanted)]
    fleets: dict[tuple[int, int], list[float]] = {}
    for (devices, _), own in frame.groupby(["devices", "scenario"]):
        static = own[own.policy == "static"]
        done = static[static.status == "done"].groupby("reserve").token_ms
        order = sorted(done, key=lambda pair: (-len(pair[1]), pair[1].mean()))
        still = static[static.reserve == (order[0][0] if order else 0.0)].set_index("seed")
        mine = own[own.policy == method].set_index("seed")
        for seed in mine.index:
            ends = [float(runs.loc[seed, "status"] == "done") for runs in (mine, still)]
            values = fleets.setdefault((devices, seed), [])
            if compared.startswith("runs"):
                values.append(ends[0] - ends[1])
            elif all(ends):
                values.append(1 - mine.loc[seed, "token_ms"] / still.loc[seed, "token_ms"])
    means = [np.mean(fleets[key]) for key in sorted(fleets) if fleets[key]]
    return [100 * one for one in interval(means)] + ([len(means)] if len(means) < len(fleets) else [])


def heads_alone(own: pd.DataFrame) -> list[float]:
    """The share of cells in which cutting heads alone gains 15 % over whole layers, and its interval by Wilson."""
    count, cells = 0, own.groupby("cell")
    for _, cell in cells:
        ms = {(run.policy, run.ffn_shards): run.token_ms for run in cell.itertuples() if run.token_ms > 0}
        layers = min((ms[key] for key in ms if key[0] in ("single", "edgeshard", "layerwise")), default=None)
        heads = ms.get(("headroom", 1))
        if layers is None or heads is None or layers < 1.15 * ms[("headroom", 8)] or layers < 1.15 * heads:
            continue
        free = [ms.get((f"{name} without memory limits", 8)) for name in ("layerwise", "headroom")]
        packing = cell.memory.iloc[0] == "tight" and not (None not in free and free[0] >= 1.15 * free[1])
        count += not packing
    share, number, z = count / len(cells), len(cells), 1.96
    middle = (share + z**2 / (2 * number)) / (1 + z**2 / number)
    width = z * (share * (1 - share) / number + z**2 / (4 * number**2)) ** 0.5 / (1 + z**2 / number)
    return [100 * share, 100 * (middle - width), 100 * (middle + width)]


RECIPES: list[tuple[Callable[[Cell], bool], Callable[[Cell], list[float]]]] = [
    (lambda cell: cell.section.startswith("What the paper") and cell.heading in ("`paper`", "`paper-search`")
     and cell.caption == "The figures behind it:", claims),
    (lambda cell: cell.section.startswith("Small"), small),
    (lambda cell: cell.section.startswith("Medium"), medium),
    (lambda cell: cell.section.startswith("Migration's worth") and "first placement" in cell.caption, frozen),
    (lambda cell: cell.section.startswith("Migration's worth"), worth),
    (lambda cell: cell.section.startswith("Emulated") and cell.caption == "**Each cell.**", emulated),
    (lambda cell: cell.section == "Migration, emulated", migration),
    (lambda cell: cell.section.startswith("Gaps") and "FFNs" in cell.caption and cell.caption.startswith("**"), gaps),
    (lambda cell: cell.section.startswith("Regimes")
     and cell.heading in ("cells without placement", "within 1 % of the best", "95th percentile", "largest"),
     regime_policies),
]  # fmt: skip


def main() -> None:
    """Draw, recompute, print, and end with 1 if any number differs from what the page shows."""
    page = (HERE.parent / "results.md").read_text(encoding="utf-8")
    eligible = []
    everything = 0
    for cell in cells(page):
        shown = NUMBER.findall(cell.text)
        everything += len(shown)
        recipe = next((found for wanted, found in RECIPES if wanted(cell)), None)
        if recipe is not None:
            eligible += [(cell, recipe, place) for place in range(len(shown))]
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else SEED
    print(f"{DRAWN} of {len(eligible)} numbers in tables with a recipe, drawn with seed {seed}; the page's tables have")
    print(f"{everything} numbers.\n")
    wrong = 0
    for cell, recipe, place in random.Random(seed).sample(eligible, DRAWN):
        text = NUMBER.findall(cell.text)[place]
        value = recipe(cell)[place]
        digits = len(text.partition(".")[2])
        good = abs(float(text) - value) <= 0.5000001 * 10**-digits
        wrong += not good
        caption = re.sub(r"[*`]", "", cell.caption)[:60]
        print(f"{'agrees' if good else 'DIFFERS'}: {text} on the page, {value:.6g} from the data")
        print(f"    {cell.section}; {caption}; row {cell.row}; column {cell.heading}; number {place + 1} of the cell")
    print(f"\n{DRAWN - wrong} of {DRAWN} agree.")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
