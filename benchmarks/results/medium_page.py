"""The table and the two figures about 25 devices and 1000 tokens: latency, memory, and when policies give up."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from benchmarks.results.medium import BIN, POLICIES, SETTINGS
from benchmarks.results.paired import DONE, Mean, prose, ratio, table, with_better_edgeshard
from testbed.runlog.comparison import COST

TITLES = {"paper": "The paper's setting", "honest": "The honest setting", "roomy": "The roomy setting"}
MIB = 2**20
# Lines that lie on each other can be told apart.
DASHES = {"paper": "-", "paper-search": "-", "greedy": "--", "static": ":", "edgeshard": "-", "galaxy": "-."}


def runs_of(frame: pd.DataFrame) -> pd.DataFrame:
    """A row for each run that is judged, with its peaks over the run."""
    frame = judged(frame)
    peaks = frame.groupby(["setting", "policy", "seed"])[["total_bytes", "most_bytes", "most_share"]].max()
    runs = frame.drop_duplicates(["setting", "policy", "seed"]).drop(
        columns=["total_bytes", "most_bytes", "most_share"]
    )
    return runs.merge(peaks.reset_index(), on=["setting", "policy", "seed"])


def judged(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the runs that are judged: of EdgeShard, the better for each instance."""
    return with_better_edgeshard(frame, ("setting", "seed"))


def until_trouble(runs: pd.DataFrame) -> pd.Series:
    """The tokens of each run before its policy first found no placement, or a device came over its memory."""
    asked = runs["tokens_asked"].astype(float)
    refused = runs["refused_at"].astype(float).fillna(asked)
    ended = runs["tokens_done"].astype(float).where(runs["status"] != DONE, asked)
    tokens: pd.Series = pd.concat([refused, ended], axis=1).min(axis=1)
    return tokens


def policy_table(own: pd.DataFrame) -> str:
    """A row for each policy of a setting: who finished, how fast, and with how much memory."""
    rows = []
    for policy in POLICIES:
        runs = own[own["policy"] == policy]
        if runs.empty:
            continue
        done = runs[runs["status"] == DONE]
        against = [None if policy == base else _times(ratio(own, policy, base)) for base in ("paper", "paper-search")]
        rows.append([
            policy, f"{len(done)} of {len(runs)}", f"{until_trouble(runs).mean():.0f}",
            f"{done[COST].mean():.2f}" if len(done) else None, *against,
            f"{(done['decision_ms'] / (done['tokens_done'] - 1)).mean():.2f}" if len(done) else None,
            None if runs["most_share"].isna().all() else f"{runs['most_share'].mean():.1%}",
            None if runs["most_bytes"].isna().all() else f"{runs['most_bytes'].mean() / MIB:.1f}",
            None if runs["total_bytes"].isna().all() else f"{runs['total_bytes'].mean() / MIB:.1f}",
        ])  # fmt: skip
    headings = ["policy", "finished", "tokens before trouble", "time, ms", "over paper's", "over paper-search's",
                "deciding, ms per token", "fullest device", "most on a device, MiB", "most in all, MiB"]  # fmt: skip
    return table(headings, rows)


def _times(found: Mean | None) -> str | None:
    """A ratio with its interval, which a single instance does not have, and the instances it is over."""
    if found is None:
        return None
    interval = f" ({found.low:.2f} to {found.high:.2f})" if found.count > 1 else ""
    return f"{found.value:.2f}{interval}, {found.count}"


def legend() -> str:
    """How to read the tables and the figures."""
    return prose(f"""*Tokens before trouble*: the mean number of tokens before the policy first found no placement that
        fits, or a device exceeded its memory. *Time*: the time of a token with its share of stalls, as the mean over
        the runs that finished. *Over paper's*: the mean ratio over the instances that both finished, its 95 %
        bootstrap interval, and their number. *Deciding*: the time of the policy's decisions on the host of the
        simulation, two runs at a time on two cores; it is not part of *time*. *Fullest device*: the largest share of
        its memory that any device held at any time; beside it the most that one device and that all devices together
        held; means over the runs. In the figures a line is the mean over the runs that still go on,
        in steps of {BIN} tokens, and the
        band holds the middle 80 % of them; a line ends where fewer than half of the runs go on.""")


def draw_latency(frame: pd.DataFrame, name: str) -> None:
    """Draw latency against token, a panel for each setting."""
    _draw(frame, name, [("token_ms", 1.0, "time per token,\nstalls included (ms)")])


def draw_memory(frame: pd.DataFrame, name: str) -> None:
    """Draw memory against token: the fullest device above, all devices together below."""
    _draw(frame, name, [
        ("most_share", 0.01, "fullest device\n(% of its memory)"),
        ("total_bytes", MIB, "all devices together (MiB)"),
    ])  # fmt: skip


def _draw(frame: pd.DataFrame, name: str, rows: Sequence[tuple[str, float, str]]) -> None:
    from benchmarks.results.drawing import FULL_WIDTH, colour, drawn

    frame = judged(frame)
    settings = [setting for setting in SETTINGS if (frame["setting"] == setting).any()]
    with drawn(name, FULL_WIDTH, 0.6 + 2.0 * len(rows), rows=len(rows), columns=len(settings)) as (figure, panels):
        for number, (column, unit, label) in enumerate(rows):
            for place, setting in enumerate(settings):
                axes = panels[number * len(settings) + place]
                for policy in POLICIES:
                    own = frame[(frame["setting"] == setting) & (frame["policy"] == policy)].dropna(subset=["token"])
                    bands = _bands(own, column)
                    if bands.empty:
                        continue
                    axes.plot(bands.index, bands["mean"] / unit, DASHES[policy], color=colour(policy), label=policy)
                    axes.fill_between(
                        bands.index, bands["low"] / unit, bands["high"] / unit, color=colour(policy), alpha=0.1,
                        linewidth=0,
                    )  # fmt: skip
                axes.set_ylim(bottom=0)
                if number == 0:
                    axes.set_title(TITLES[setting])
                if place == 0:
                    axes.set_ylabel(label)
                axes.set_xlabel("token")
        found = {
            text: handle for axes in panels for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        shown = [policy for policy in POLICIES if policy in found]
        figure.legend([found[policy] for policy in shown], shown, loc="outside upper center", ncols=len(shown))


def _bands(own: pd.DataFrame, column: str) -> pd.DataFrame:
    """Mean and middle 80 % of a figure at each token, as long as at least half of the runs go on."""
    groups = own.dropna(subset=[column]).groupby("token")[column]
    bands = groups.agg(mean="mean", low=lambda values: values.quantile(0.1), high=lambda values: values.quantile(0.9))
    enough: pd.DataFrame = bands[groups.size() >= own["seed"].nunique() / 2]
    return enough
