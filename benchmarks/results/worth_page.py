"""The tables and the figure about what migration is worth.

In each setting, policies that migrate are compared with `static` at the reserve that serves it best there: the one with
which most instances finish and, among those, the one with the least mean time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pandas as pd

from benchmarks.results.paired import DONE, Mean, mean_of, prose, table
from benchmarks.results.worth import DEVICES, FROZEN, MEMORIES, MIGRATING, RESERVES, SCENARIOS, SEEDS

STATIC = "static"
HAPPENS = {
    "links only": "each link's rate fluctuates",
    "announced": "memory is taken for good, and the policy hears of it before it must be free",
    "unannounced": "the same, at once and without notice (`grace: 0`)",
    "returns": "the same with notice, and it comes back after 32 tokens",
    "all together": "links and speeds fluctuate, and memory goes with notice and comes back",
}


class Compared(NamedTuple):
    """A policy beside the best static placement in a setting."""

    finished: int
    runs: int
    saved: Mean | None  # 1 - time over static's, over the instances that both finished


def of_setting(frame: pd.DataFrame, devices: int, memory: str, scenario: str) -> pd.DataFrame:
    """The rows of one setting."""
    mine = (frame["devices"] == devices) & (frame["memory"] == memory) & (frame["scenario"] == scenario)
    return frame[mine]


def best_static(own: pd.DataFrame) -> pd.DataFrame:
    """The runs of `static` at the reserve that serves it best in a setting."""
    static = own[own["policy"] == STATIC]
    done = static[static["status"] == DONE]
    means = done.groupby("reserve")["token_ms"].agg(["size", "mean"])
    if means.empty:
        return static[static["reserve"] == RESERVES[0]]
    best = means.sort_values(["size", "mean"], ascending=[False, True]).index[0]
    return static[static["reserve"] == best]


def compared(runs: pd.DataFrame, still: pd.DataFrame) -> Compared:
    """The runs of a policy beside those of one that does not migrate."""
    ours, theirs = (own[own["status"] == DONE].set_index("seed")["token_ms"].astype(float) for own in (runs, still))
    with_, without = ours.align(theirs, join="inner")
    return Compared(len(ours), len(runs), mean_of((1 - with_ / without).tolist()))


def saved_text(found: Mean | None) -> str | None:
    """A share of a token's time with its interval, and the instances where they are not all."""
    if found is None:
        return None
    text = f"{found.value:+.1%}" + (f" ({found.low:+.1%} to {found.high:+.1%})" if found.count > 1 else "")
    return text + (f", {found.count}" if found.count < len(SEEDS) else "")


def settings_table(frame: pd.DataFrame, memory: str) -> str:
    """A row for each fleet and scenario: who finishes, and the time that migration saves against the best static."""
    rows = []
    for devices in DEVICES:
        for scenario in SCENARIOS:
            own = of_setting(frame, devices, memory, scenario)
            if own.empty:
                continue
            still = best_static(own)
            found = compared(still, still)
            cells: list[object] = [
                f"{devices} devices, {scenario}", f"{still['reserve'].iloc[0]:.1f}",
                f"{found.finished} of {found.runs}",
            ]  # fmt: skip
            for policy in MIGRATING:
                one = compared(own[own["policy"] == policy], still)
                cells += [f"{one.finished} of {one.runs}", saved_text(one.saved)]
            rows.append(cells)
    headings = ["setting", "static: reserve", "static: finished"]
    for policy in MIGRATING:
        headings += [f"{policy}: finished", f"{policy}: time saved"]
    return table(headings, rows)


def frozen_table(frame: pd.DataFrame) -> str:
    """For each scenario and memory: runs that finish with and without the later decisions of the same policy."""
    rows = []
    for memory in MEMORIES:
        for scenario in SCENARIOS:
            own = frame[(frame["memory"] == memory) & (frame["scenario"] == scenario)]
            if own.empty:
                continue
            cells: list[object] = [f"{memory}, {scenario}"]
            for policy in MIGRATING:
                one = compared_all(own, policy)
                without = own[own["policy"] == policy + FROZEN]
                cells += [
                    f"{int((without['status'] == DONE).sum())} of {one.runs}", f"{one.finished} of {one.runs}",
                    saved_text_of(one),
                ]  # fmt: skip
            rows.append(cells)
    headings = ["setting"]
    for policy in MIGRATING:
        headings += [f"{policy}: finished without", f"{policy}: with", f"{policy}: time saved"]
    return table(headings, rows)


def compared_all(own: pd.DataFrame, policy: str) -> Compared:
    """A policy beside its own first placement, over the fleets of all sizes."""
    numbered = own.assign(seed=1000 * own["devices"] + own["seed"])
    with_, without = (numbered[numbered["policy"] == name] for name in (policy, policy + FROZEN))
    return compared(with_, without)


def saved_text_of(one: Compared) -> str | None:
    """The time saved with the number of pairs."""
    if one.saved is None:
        return None
    return f"{one.saved.value:+.1%} ({one.saved.low:+.1%} to {one.saved.high:+.1%}), {one.saved.count}"


def words() -> str:
    """What happens in each scenario, as a list."""
    return "\n".join(f"- *{scenario}*: {what}." for scenario, what in HAPPENS.items())


def legend() -> str:
    """How to read the tables."""
    return prose(f"""*Finished*: runs that generated all tokens; the others found no first placement, or a device
        exceeded its memory. *Time saved*: 1 − (time per token with migration, stalls included) / (time of `static`),
        as the mean over the instances that both finished, with its 95 % bootstrap interval, and their number if it is
        not {len(SEEDS)}.""")


def draw(frame: pd.DataFrame, name: str) -> None:
    """Draw the share of runs that finish and the time saved, for each fleet and scenario, with a panel each."""
    from benchmarks.results.drawing import FULL_WIDTH, colour, drawn, marker

    places = [(devices, scenario) for devices in DEVICES for scenario in SCENARIOS]
    shown = (*MIGRATING, STATIC)
    with drawn(name, FULL_WIDTH, 4.6, columns=2 * len(MEMORIES)) as (figure, panels):
        for number, memory in enumerate(MEMORIES):
            finishing, saving = panels[2 * number : 2 * number + 2]
            for place, (devices, scenario) in enumerate(places):
                own = of_setting(frame, devices, memory, scenario)
                if own.empty:
                    continue
                still = best_static(own)
                for rank, policy in enumerate(shown):
                    y = place + 0.2 * (rank - (len(shown) - 1) / 2)
                    one = compared(still if policy == STATIC else own[own["policy"] == policy], still)
                    look: dict[str, Any] = {
                        "marker": marker(policy),
                        "color": colour(policy),
                        "markersize": 3,
                        "linewidth": 0.8,
                    }
                    finishing.plot(100 * one.finished / max(1, one.runs), y, linestyle="none", **look)
                    if policy != STATIC and one.saved is not None:
                        value, low, high = (100 * x for x in (one.saved.value, one.saved.low, one.saved.high))
                        saving.errorbar(value, y, xerr=[[value - low], [high - value]], linestyle="none", **look)
            for axes in (finishing, saving):
                axes.set_title(f"memory {memory}")
            finishing.set_xlabel("runs finished (%)")
            finishing.set_xlim(-5, 105)
            saving.set_xlabel("time saved against\nstatic (%)")
            saving.axvline(0, color="#333333", linewidth=0.6)
            for axes in (finishing, saving):
                labels = [f"{devices}: {scenario}" for devices, scenario in places]
                axes.set_yticks(range(len(places)), labels if axes is panels[0] else [""] * len(places))
                axes.set_ylim(len(places) - 0.5, -0.5)
                for border in range(len(SCENARIOS), len(places), len(SCENARIOS)):
                    axes.axhline(border - 0.5, color="#cccccc", linewidth=0.5)
        handles = [
            panels[0].plot([], [], linestyle="none", marker=marker(policy), color=colour(policy), markersize=3)[0]
            for policy in shown
        ]
        figure.legend(handles, [*MIGRATING, "static, its best reserve"], loc="outside upper center", ncols=len(shown))
        panels[0].set_ylabel("devices: what happens")
