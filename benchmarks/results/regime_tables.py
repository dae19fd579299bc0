"""The tables and sentences on the regime map; all figures come from the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from benchmarks.results.cells import FFN_SHARDS, TIGHT
from benchmarks.results.class_search import HeadsTogether
from benchmarks.results.grid import GAIN, LIFTED, WHOLE_LAYERS
from benchmarks.results.paired import counted, mean_of, named, prose, table
from benchmarks.results.rows import RIVALS

OURS, STATIC = "headroom", "static"
BOUND = 1.01  # the largest allowed ratio of headroom to the best other policy
FEW_SEEDS = 20  # of a setting under traces; these are also judged alone
OTHERS = (STATIC, *RIVALS)
CLASS_BEST = {
    "single": "single_ms",
    "edgeshard": "layer_ms",
    "layerwise": "layer_ms",
}  # the others use any
PACKING = "packing by "
UNTOLD = "not looked into"
CAUSES = ("no whole layers fit", "heads", "FFN shards", PACKING + "heads", PACKING + "FFN shards", UNTOLD)
KEYS = ["shape", "devices", "delay_ms", "rate_Mbps", "streaming_GBps", "memory", "context", "seed"]


def cells_of(frame: pd.DataFrame) -> pd.DataFrame:
    """A row for each cell: its keys, the time of each policy in milliseconds per token, and derived figures."""
    own = frame[frame["part"] == "cell"]
    keys = own.drop_duplicates("cell").set_index("cell")[KEYS]
    cut = _times(own[own["ffn_shards"] == FFN_SHARDS])
    whole = _times(own[own["ffn_shards"] == 1])
    found = keys.join(cut[[OURS, *OTHERS]])
    found["best_other"] = cut[list(OTHERS)].min(axis=1)
    found["best_name"] = cut[list(OTHERS)].idxmin(axis=1)
    found["ratio"] = cut[OURS] / found["best_other"]
    layers = list(WHOLE_LAYERS)
    found["layer_ms"] = pd.concat([cut[layers], whole[layers]], axis=1).min(axis=1)
    found["head_ms"] = whole[OURS]  # NaN where the causes were not computed
    found["head_ms"] = found["head_ms"].where(~(found["head_ms"] > found["layer_ms"]), found["layer_ms"])
    looked_into = cut.index.isin(own.loc[own["policy"] == HeadsTogether.name, "cell"])
    together = cut.get(HeadsTogether.name, pd.Series(index=cut.index, dtype=float))
    found["shard_ms"] = pd.concat([together, found["layer_ms"]], axis=1).min(axis=1).where(looked_into)
    found["single_ms"] = pd.concat([cut["single"], whole["single"]], axis=1).min(axis=1)
    found["gain"] = found["layer_ms"] / cut[OURS]
    found["head_gain"] = found["layer_ms"] / found["head_ms"]
    lifted = [name + LIFTED for name in ("layerwise", OURS)]
    roomy = cut.reindex(columns=lifted)
    found["roomy_gain"] = roomy[lifted[0]] / roomy[lifted[1]]
    found["cause"] = [_cause(cell) for cell in found.to_dict("records")]
    return found


def _times(own: pd.DataFrame) -> pd.DataFrame:
    """The milliseconds per token by cell and policy; NaN where there is no placement."""
    return own.pivot(index="cell", columns="policy", values="token_ms")


def _cause(cell: Mapping[Any, Any]) -> str | None:
    """The cause of a gain over whole layers; None if the gain is too small to count."""
    if pd.isna(cell["layer_ms"]):
        return CAUSES[0]
    if not cell["gain"] >= GAIN:
        return None
    if pd.isna(cell["head_ms"]):
        return UNTOLD
    what = "heads" if cell["head_gain"] >= GAIN else "FFN shards"
    return PACKING + what if cell["memory"] == "tight" and not cell["roomy_gain"] >= GAIN else what


def causes(cells: pd.DataFrame) -> str:
    """The shares of cells that gain, by cause, for each model and memory."""
    rows = []
    groups = [*cells.groupby(["shape", "memory"]), (("all", ""), cells)]
    for (shape, memory), own in groups:
        gains = own["cause"].notna()
        shares = [f"{(own['cause'] == cause).mean():.1%}" for cause in CAUSES]
        most = own["gain"].max()
        rows.append([f"{shape} {memory}".strip(), len(own), f"{gains.mean():.1%}", *shares, f"{most:.2f}"])
    return table(["cells", "number", f"gain of {GAIN - 1:.0%} or more", *CAUSES, "largest time ratio"], rows)


def against_others(cells: pd.DataFrame) -> str:
    """Whether headroom is within the bound of the best other policy, and all cells where it is not."""
    known = cells["ratio"].dropna()
    missing = cells["ratio"].isna() & cells["best_other"].notna()
    over = known[known > BOUND]
    best = cells.loc[known.index, "best_name"].value_counts()
    apart = (cells[OURS] / cells[list(RIVALS)].min(axis=1)).dropna()
    text = prose(f"""Over the best of the ten other policies in each of {len(known)} cells, `headroom` takes
        {known.mean() - 1:+.2%} on average, {known.quantile(0.99) - 1:+.2%} at the 99th percentile and
        {known.max() - 1:+.2%} at worst; it is over {BOUND - 1:.0%} in {len(over)} cells
        ({len(over) / len(known):.1%}), and finds no placement where another does in {int(missing.sum())}.
        The best other one is most often
        {named([f"`{name}` ({count})" for name, count in best.items()][:4])}; `static` takes the best first placement
        of all others, `headroom` among them, and in a cell nothing changes afterwards. Over the best of the other
        nine, `headroom` takes {apart.max() - 1:+.2%} at worst and {apart.median() - 1:+.1%} in the median.""")
    if not len(over):
        return text
    worst = cells.loc[over.sort_values(ascending=False).index].reset_index().to_dict("records")
    rows = [[_name(cell), cell["cell"], cell["best_name"], f"{cell['ratio']:.4f}"] for cell in worst]
    return "\n\n".join([text, "The cells over it:", table(["cell", "number", "best other", "headroom over it"], rows)])


def policies(cells: pd.DataFrame) -> str:
    """The time of each policy over the best policy of the same cell."""
    best = cells[[OURS, *OTHERS]].min(axis=1)
    rows = []
    for policy in (OURS, *OTHERS):
        ratios = (cells[policy] / best).dropna()
        own = (cells[policy] / cells[CLASS_BEST[policy]]).dropna() if policy in CLASS_BEST else ratios
        rows.append([
            policy, len(cells) - len(ratios), f"{own.median():.3f}", f"{(ratios <= BOUND).mean():.1%}",
            f"{ratios.median():.3f}", f"{ratios.quantile(0.95):.2f}", f"{ratios.max():.2f}",
        ])  # fmt: skip
    headings = [
        "policy",
        "cells without placement",
        "median in its class",
        "within 1 % of the best",
        "median",
        "95th percentile",
        "largest",
    ]
    return table(headings, rows)


def classes(cells: pd.DataFrame) -> str:
    """The best placement of each class over the best of all, by model and memory, as geometric means."""
    rows = []
    for (shape, memory), own in cells.dropna(subset="head_ms").groupby(["shape", "memory"]):
        best = own[[OURS, "best_other", "head_ms", "shard_ms"]].min(axis=1)
        line: list[object] = [f"{shape} {memory}", len(own)]
        for column in ("single_ms", "layer_ms", "head_ms", "shard_ms"):
            ratios = (own[column] / best).dropna()
            missing = len(own) - len(ratios)
            line.append(_geometric(ratios) + (f" ({missing} without)" if missing else ""))
        rows.append(line)
    return table(
        ["cells", "number", "single device", "whole layers", "heads cut, FFN whole", "FFN cut, heads together"], rows
    )


def _geometric(ratios: pd.Series) -> str:
    from numpy import exp, log

    return f"{exp(log(ratios).mean()):.3f}" if len(ratios) else "-"


def traced(frame: pd.DataFrame) -> str:
    """Our policy against the best other policy of each setting, paired over seeds."""
    own = frame[frame["part"] == "traced"]
    rows, means, few = [], [], []
    for _, runs in own.groupby("cell"):
        times = runs.pivot(index="seed", columns="policy", values="token_ms")
        best, ratios = _closest(times)
        found = mean_of(ratios.tolist())
        layers = mean_of((times["layerwise"] / times[OURS]).dropna().tolist())
        assert found is not None
        means.append(found)
        name = _name(runs.to_dict("records")[0], seed=False)
        rows.append([
            name, len(times), int(times[OURS].isna().sum()), best, found.percent(),
            f"{ratios.max() - 1:+.1%}", f"{layers.value:.2f}" if layers else None,
            layers.count if layers else 0,
        ])  # fmt: skip
        other, ratios = _closest(times[times.index <= FEW_SEEDS])
        part = mean_of(ratios.tolist())
        if part is not None and part.value > BOUND and len(times) > FEW_SEEDS:
            few.append(f"{name}: {part.percent()} over `{other}`")
    headings = ["setting", "seeds", "not finished by headroom", "best other", "headroom over it", "worst seed",
                "layerwise over headroom", "seeds with it"]  # fmt: skip
    over = [one for one in means if one.value > BOUND]
    text = f"The mean is over {BOUND - 1:.0%} in {len(over)} of {counted(len(means), 'setting')}"
    if over:
        unsure = sum(one.low <= 1 for one in over)
        text += f"; the interval reaches below 0 in {unsure} of these, so more seeds could say otherwise"
    if few:
        text += f". Of the first {FEW_SEEDS} seeds alone it is over {BOUND - 1:.0%} in {len(few)} ({'; '.join(few)})"
    return table(headings, rows) + f"\n\n{text}."


def _closest(times: pd.DataFrame) -> tuple[str, pd.Series]:
    """The closest other policy among those that finished most often, and our time over its time by seed."""
    finished = times[list(OTHERS)].notna().sum()
    ratios = {name: (times[OURS] / times[name]).dropna() for name in OTHERS if finished[name] == finished.max()}
    best = max(ratios, key=lambda name: ratios[name].mean())
    return best, ratios[best]


def endings(frame: pd.DataFrame) -> str:
    """The outcomes of runs under traces, for policies that did not finish all of them."""
    own = frame[frame["part"] == "traced"]
    told = []
    for policy in (OURS, *OTHERS):
        runs = own[own["policy"] == policy]
        refused, killed = int((runs["status"] == "infeasible").sum()), int((runs["status"] == "oom").sum())
        if refused or killed:
            told.append(f"`{policy}` found no first placement in {refused} and ran out of memory in {killed}")
    return f"Of {own.groupby(['cell', 'seed']).ngroups} runs, " + "; ".join(told) + "." if told else ""


def _name(cell: Mapping[Any, Any], seed: bool = True) -> str:
    memory = TIGHT.replace(" x model", "x") if cell["memory"] == "tight" else "loose"
    text = f"{cell['shape']}, {cell['devices']} devices, {cell['delay_ms']:g} ms, {cell['rate_Mbps']} Mbit/s, "
    text += f"{cell['streaming_GBps']} GB/s, {memory}, {cell['context']}"
    return text + (f", seed {cell['seed']}" if seed else "")
