"""The table of claims: what the paper says, in its own setting and in honest ones, for `paper` and `paper-search`.

A verdict comes from the 95 % interval of a figure: where the interval holds the border, the claim is undecided. Nothing
is collected here; the figures come from the data of the sections below the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pandas as pd

from benchmarks.results import claimed_migration, medium, medium_page, small, store, worth
from benchmarks.results.judged import (
    METHODS,
    RIVALS,
    Judged,
    Row,
    ahead_of,
    at_most,
    more_finished,
    of_rivals,
    points,
    times,
    wilson,
)
from benchmarks.results.paired import DONE, Mean, finished, mean_of, named, ratio, table
from benchmarks.results.regime_tables import CAUSES, GAIN, KEYS, cells_of
from testbed.runlog.comparison import COST

CLOSE = 1.20  # the wider figure of the paper's "within 15 to 20 percent"
TIMES = 9.0  # the smaller of the paper's 9 to 10 times
CHARGED = "charged_ms"
FLEET = ("devices", "seed")  # what identifies an instance of a setting
COMMAND = "`python -m benchmarks.results.{}`"
SAID = {
    1: "In small-scale settings (3-5 devices) the method achieves within 15 to 20 percent of an exact optimal solver's "
    "latency.",
    2: "In larger-scale tests (25 devices) it achieves notable improvements in inference speed compared to layer-based "
    "partitioning (EdgeShard, Galaxy) …",
    3: "9 to 10 times faster than EdgeShard and Galaxy.",
    4: "… and notable improvements in memory usage.",
    5: "It migrates blocks so that the sum of migration delay and inference delay remains low, whenever resources "
    "become tight.",
    6: "Parallel execution of attention heads on different devices achieves substantial reductions in inference "
    "delays.",
}
SHORT = {
    1: "Within 15-20 % of an exact solver",
    2: "Faster than EdgeShard, Galaxy",
    3: "9-10 times faster",
    4: "Lower peak memory per device",
    5: "Migration pays",
    6: "Parallel heads pay",
}
# For README.
FEWER = {
    "not reproduced": "no", "reproduced": "yes", "yes against edgeshard only": "against EdgeShard",
    "yes against galaxy only": "against Galaxy", "yes against galaxy, which alone finishes": "against Galaxy",
    "yes: more runs finish": "more finish", "no: fewer runs finish": "fewer finish", "rarely: in ": "in ",
}  # fmt: skip
SETTINGS = {"paper": "paper's", "honest": "honest", "roomy": "roomy"}


def all_rows() -> list[Row]:
    """Every claim in every setting that has data, in the order of the page."""
    found: list[Row] = []
    if (frame := _data(small.NAME)) is not None:
        found += [row for setting in small.SETTINGS for row in _optimum(small.runs_of(frame), setting)]
    if (frame := _data(medium.NAME)) is not None:
        runs = medium_page.runs_of(frame)
        for compare in (_speed, _times_faster, _memory):
            found += [
                row for setting in SETTINGS for row in compare(runs[runs["setting"] == setting], SETTINGS[setting])
            ]
        theirs = runs[runs["setting"] == "paper"]
        found += [claimed_migration.in_the_papers_setting(theirs), _parallel_there(theirs)]
    if (frame := _data(worth.NAME)) is not None:
        found += claimed_migration.in_honest_settings(frame)
    found.append(_parallel(cells_of(store.load("regimes")[0])))
    return sorted(found, key=lambda row: row.claim)


def _data(name: str) -> pd.DataFrame | None:
    return store.load(name)[0] if (store.DATA / f"{name}.parquet").exists() else None


# --- one claim each --------------------------------------------------------------------------------------------


def _optimum(frame: pd.DataFrame, setting: str) -> Iterator[Row]:
    """Whole runs over the run of `exact`, as the paper compares, and over the least that a run takes."""
    own = frame[frame["setting"] == setting]
    bases = {"exact": "run over that of `exact`", small.LEAST: "run over the least that one can take"}
    for base, compared in bases.items():
        found = [ratio(small.instances(own), method, base) for method in METHODS]
        judged = tuple(Judged(times(one), at_most(one, CLOSE)) for one in found)
        greedy = times(ratio(small.instances(own), "greedy", base))
        yield Row(1, SETTINGS[setting], compared, judged, f"greedy {greedy}", small.NAME, *_instances(own),
                  SETTINGS[setting] if base == "exact" else None)  # fmt: skip


def _speed(own: pd.DataFrame, setting: str) -> Iterator[Row]:
    """A rival's time over the method's, without and with the time that deciding took."""
    charged = own.assign(**{CHARGED: own[COST] + own["decision_ms"] / (own["tokens_done"] - 1).clip(lower=1)})
    for column, compared in ((COST, "rival's time over it"), (CHARGED, "the same, deciding charged")):
        yield _against(2, charged, setting, compared, column, lambda found: ahead_of(found, 1), column == COST)


def _times_faster(own: pd.DataFrame, setting: str) -> Iterator[Row]:
    yield _against(3, own, setting, "rival's time over it", COST, lambda found: ahead_of(found, TIMES))


def _memory(own: pd.DataFrame, setting: str) -> Iterator[Row]:
    """What the fullest device and all devices hold, the rival's over the method's; and the runs that finish."""
    yield _against(4, own, setting, "rival's most bytes on one device over its", "most_bytes",
                   lambda found: ahead_of(found, 1))  # fmt: skip
    yield _against(4, own, setting, "rival's most bytes in all over its", "total_bytes",
                   lambda found: ahead_of(found, 1), told=False)  # fmt: skip
    if (own["status"] != DONE).any():
        yield _fits(own, setting)


def _fits(own: pd.DataFrame, setting: str) -> Row:
    judged = []
    for method in METHODS:
        more = {rival: more_finished(own, method, rival) for rival in RIVALS}
        figure = "; ".join(f"{rival} {points(one)}" for rival, one in more.items())
        judged.append(Judged(figure, ahead_of(more, 0)))
    counts = [
        f"{policy} {(own.loc[own['policy'] == policy, 'status'] == DONE).mean():.0%}" for policy in (*METHODS, *RIVALS)
    ]
    return Row(4, setting, "runs that finish, less the rival's", tuple(judged), f"finish: {', '.join(counts)}",
               medium.NAME, *_instances(own), f"{setting} (fitting)")  # fmt: skip


def _against(
    claim: int, own: pd.DataFrame, setting: str, compared: str, column: str,
    verdict: Callable[[dict[str, Mean | None]], str], told: bool = True,
) -> Row:  # fmt: skip
    """A figure of each rival over that of each method."""
    judged = []
    for method in METHODS:
        found = {rival: _ratio(own, rival, method, column) for rival in RIVALS}
        judged.append(Judged(of_rivals(own, found), verdict(found)))
    found = {rival: _ratio(own, rival, "greedy", column) for rival in RIVALS}
    greedy = f"over greedy: {of_rivals(own, found)}" if (own["policy"] == "greedy").any() else "-"
    return Row(claim, setting, compared, tuple(judged), greedy, medium.NAME, *_instances(own),
               setting if told else None)  # fmt: skip


def _instances(own: pd.DataFrame) -> tuple[int, str]:
    """The number of instances, and the seeds in words."""
    seeds, instances = own["seed"].nunique(), len(own.drop_duplicates([key for key in FLEET if key in own]))
    return instances, f"{seeds}" + (f", {instances} instances" if instances > seeds else "")


def _ratio(own: pd.DataFrame, policy: str, base: str, column: str) -> Mean | None:
    ours, theirs = finished(own, policy, column).align(finished(own, base, column), join="inner")
    return mean_of((ours / theirs).tolist())


def _parallel_there(own: pd.DataFrame) -> Row:
    """In the paper's setting a whole layer is the whole model, which EdgeShard puts on one device."""
    judged = []
    for method in METHODS:
        found = ratio(own, "edgeshard", method)
        judged.append(Judged(times(found), ahead_of({"edgeshard": found}, GAIN)))
    return Row(6, SETTINGS["paper"], "time of the whole layer on one device (edgeshard) over it", tuple(judged),
               f"reproduced from {GAIN:.2f} on", medium.NAME, *_instances(own), SETTINGS["paper"])  # fmt: skip


def _parallel(cells: pd.DataFrame) -> Row:
    heads = cells["cause"] == CAUSES[1]
    low, high = wilson(int(heads.sum()), len(cells))
    figure = f"in {heads.mean():.1%} ({low:.1%} to {high:.1%}) of cells"
    one = Judged(figure, f"rarely: in {heads.mean():.1%} of cells")
    settings = len(cells.drop_duplicates([key for key in KEYS if key != "seed"]))
    return Row(6, "honest, 4 to 8 devices", f"a gain of {GAIN - 1:.0%} or more over whole layers", (one, one),
               "of the best placements that headroom's search finds", "regimes", len(cells),
               f"{cells['seed'].nunique()} in each of {settings} settings, {len(cells)} cells", "honest")  # fmt: skip


# --- tables ----------------------------------------------------------------------------------------------------


def verdicts_table(rows: Sequence[Row]) -> str:
    """A line for each claim: the paper's sentence, and the verdicts by setting."""
    lines = ["| | the paper | `paper` | `paper-search` |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {claim} | {SAID[claim]} | {_told(rows, claim, 0)} | {_told(rows, claim, 1)} |" for claim in _claims(rows)
    ]
    return "\n".join(lines)


def readme_table(rows: Sequence[Row]) -> str:
    """The same in README.md, in fewer words."""
    lines = ["| the paper | `paper` | `paper-search` |", "| --- | --- | --- |"]
    for claim in _claims(rows):
        told = [_told(rows, claim, method) for method in range(len(METHODS))]
        for words, fewer in FEWER.items():
            told = [text.replace(words, fewer) for text in told]
        lines.append(f"| {SHORT[claim]} | {told[0]} | {told[1]} |")
    return "\n".join(lines)


def _claims(rows: Sequence[Row]) -> list[int]:
    return sorted({row.claim for row in rows})


def _told(rows: Sequence[Row], claim: int, method: int) -> str:
    """The verdicts of a claim, each with its settings."""
    told: dict[str, list[str]] = {}
    for row in rows:
        if row.claim == claim and row.told is not None:
            told.setdefault(row.judged[method].verdict, []).append(row.told)
    if len(told) == 1:
        return f"{next(iter(told))} in all"
    return "; ".join(f"{named(settings)}: {verdict}" for verdict, settings in told.items())


def figures_table(rows: Sequence[Row]) -> str:
    """Every figure behind the verdicts."""
    lines = []
    for row in rows:
        cells = [cell for one in row.judged for cell in (one.figure, f"**{one.verdict}**")]
        lines.append(
            [f"{row.claim}", row.setting, row.compared, *cells, row.beside, row.seeds, COMMAND.format(row.data)]
        )
    headings = ["", "setting", "compared"]
    for method in METHODS:
        headings += [f"`{method}`", "verdict"]
    return table([*headings, "beside", "seeds", "command"], lines).replace("---:", "---")
