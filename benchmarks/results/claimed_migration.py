"""The claim that migration pays when resources become tight: policies that migrate against the best that never does."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from benchmarks.results import medium, worth, worth_page
from benchmarks.results.judged import METHODS, Judged, Row, finishes, points, saves, share
from benchmarks.results.paired import DONE, Mean, finished, mean_of

CLAIM = 5
# What happens: the scenarios, and its name in the table of verdicts.
HAPPENS = {
    "memory goes with notice": (("announced", "returns", "all together"), "with notice"),
    "memory goes unannounced": (("unannounced",), "unannounced"),
    "links only": (("links only",), "links only"),
}
TIGHT = worth.MEMORIES[0]
FLEET = ["devices", "seed"]


def in_the_papers_setting(own: pd.DataFrame) -> Row:
    """With plentiful memory, where links and speeds fluctuate: the time that is saved against `static`."""
    judged = []
    for method in METHODS:
        ours, static = finished(own, method).align(finished(own, "static"), join="inner")
        saved = mean_of((1 - ours / static).tolist())
        judged.append(Judged(share(saved), saves(saved)))
    seeds = own["seed"].nunique()
    moved = [f"{own.loc[own['policy'] == method, 'migrations'].mean():.1f} ({method})" for method in METHODS]
    return Row(
        CLAIM, "paper's", "time saved against `static`; links and speeds fluctuate", tuple(judged),
        "blocks moved in a run: " + ", ".join(moved), medium.NAME, seeds, f"{seeds}", "paper's",
    )  # fmt: skip


def in_honest_settings(frame: pd.DataFrame) -> Iterator[Row]:
    """In tight and in ample memory, for each kind of change: the runs that finish, and the time that is saved."""
    for memory in worth.MEMORIES:
        for happens, (scenarios, short) in HAPPENS.items():
            own = frame[(frame["memory"] == memory) & frame["scenario"].isin(scenarios)]
            if len(own):
                yield from _rows(own, f"honest, {memory}: {happens}", short if memory == TIGHT else None)


def _rows(own: pd.DataFrame, setting: str, told: str | None) -> Iterator[Row]:
    pairs = {method: beside_static(own, method) for method in METHODS}
    fleets = len(own.drop_duplicates(FLEET))
    about = worth.NAME, fleets, f"{own['seed'].nunique()}, {fleets} fleets"
    if any((pair["finished"] != pair["static_finished"]).any() for pair in pairs.values()):
        more = {method: _over_fleets(pair["finished"] - pair["static_finished"]) for method, pair in pairs.items()}
        judged = tuple(Judged(points(one), finishes(one)) for one in more.values())
        counts = [f"{pair['finished'].mean():.0%} ({method})" for method, pair in pairs.items()]
        static = next(iter(pairs.values()))["static_finished"].mean()
        yield Row(CLAIM, setting, "runs that finish, less those of the best static", judged,
                  f"of all: {', '.join(counts)}, {static:.0%} (static)", *about, told)  # fmt: skip
        told = None
    saved = {method: _over_fleets(pair["saved"]) for method, pair in pairs.items()}
    frozen = [f"{share(_over_fleets(_beside_frozen(own, method)))} ({method})" for method in METHODS]
    yield Row(CLAIM, setting, "time saved against the best static, where both finish",
              tuple(Judged(share(one, fleets), saves(one)) for one in saved.values()),
              "against its own first placement: " + ", ".join(frozen), *about, told)  # fmt: skip


def beside_static(own: pd.DataFrame, method: str) -> pd.DataFrame:
    """Each run of a method and the best static one: whether they finish, and the share of time saved if both do."""
    settings = [runs for _, runs in own.groupby(["devices", "scenario"])]
    still = _runs(pd.concat([worth_page.best_static(runs) for runs in settings]))
    pair = _runs(own[own["policy"] == method]).join(still.add_suffix("_static"))
    return pd.DataFrame({
        "finished": pair["done"].astype(int), "static_finished": pair["done_static"].astype(int),
        "saved": 1 - pair["token_ms"] / pair["token_ms_static"],
    })  # fmt: skip


def _beside_frozen(own: pd.DataFrame, method: str) -> pd.Series:
    with_, without = (_runs(own[own["policy"] == name]) for name in (method, method + worth.FROZEN))
    saved: pd.Series = 1 - with_["token_ms"] / without["token_ms"]
    return saved


def _runs(own: pd.DataFrame) -> pd.DataFrame:
    runs = own.assign(done=own["status"] == DONE).set_index([*FLEET, "scenario"])
    return runs[["done", "token_ms"]].astype({"token_ms": float})


def _over_fleets(values: pd.Series) -> Mean | None:
    """The mean over fleets, each of which is the mean over its scenarios: these are not independent."""
    return mean_of(values.dropna().groupby(level=FLEET).mean().tolist())
