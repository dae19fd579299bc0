"""Compares whole runs with the least that a run can take, in the paper's small setting and in an honest one.

`python -m benchmarks.results.small` simulates experiments/paper-small.yaml and experiments/honest-small.yaml with 3, 4
and 5 devices; each seed is another instance. The least is the run of one who knows the future, or a bound on it where
that run cannot be found.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pandas as pd
from matplotlib.ticker import FixedLocator, NullLocator

from benchmarks.results import store
from benchmarks.results.paired import DONE, finished, prose, ratio, table, with_better_edgeshard
from benchmarks.results.replayed import observations
from benchmarks.results.running import FREE_EDGESHARD, NOMINAL_NOTE, Planned, run, simulated
from testbed.placement.whole_run import decoded_lengths, least_run
from testbed.runlog.comparison import COST

NAME = "small"
SETTINGS = {"paper": "paper-small.yaml", "honest": "honest-small.yaml"}
SIZES = (("paper", 4), ("honest", 4), ("paper", 3), ("paper", 5), ("honest", 3), ("honest", 5))  # in this order
SEEDS = range(1, 21)
LEAST = "least"
POLICIES = ("exact", "headroom", "paper", "paper-search", "greedy", "round-robin", "edgeshard", "galaxy")
SIMULATED = (*POLICIES, FREE_EDGESHARD)
# Headroom's search does not know the paper's formula; with one layer, EdgeShard's first layer may be anywhere as it is.
LEFT_OUT = {"paper": ("headroom", FREE_EDGESHARD), "honest": ()}
TICKS, TOP = (1, 1.2, 1.5, 2, 2.5, 3), 3.2  # of the figure
WIDTHS = (0.15, 0.20)  # the two figures of the paper
TITLES = {"paper": "The paper's setting", "honest": "The honest setting"}


class Instance(NamedTuple):
    """A fleet with its traces, which all policies meet."""

    setting: str
    devices: int
    seed: int

    @property
    def key(self) -> str:
        """The file name of its part."""
        return "-".join(map(str, self))

    def planned(self, policy: str) -> Planned:
        """The run of a policy."""
        changes, said = {"topology.devices": self.devices}, {"setting": self.setting, "devices": self.devices}
        return simulated(SETTINGS[self.setting], policy, self.seed, changes, said)


def planned() -> list[Instance]:
    """All instances."""
    return [Instance(setting, devices, seed) for setting, devices in SIZES for seed in SEEDS]


def rows_of(instance: Instance) -> list[dict[str, Any]]:
    """A row for the run of each policy on an instance, and one for the least that a run takes."""
    rows = [run(instance.planned(policy)) for policy in SIMULATED if policy not in LEFT_OUT[instance.setting]]
    done = [row[COST] for row in rows if row["status"] == DONE]
    if not done:
        return rows
    experiment = instance.planned(POLICIES[0]).load()
    seen = observations(experiment)
    decoded = sum(len(decoded_lengths(one)) for one in seen)
    found = least_run(seen, min(done) * decoded / 1e3, experiment.seed)
    said = {**instance._asdict(), "policy": LEAST, "status": DONE, "tokens_done": experiment.tokens}
    return [*rows, said | {COST: 1e3 * found.seconds / decoded, "optimum": found.proved}]


def main() -> None:
    """Simulate the missing instances and save the table."""
    options = store.arguments(NAME, __doc__).parse_args()
    mine = store.share_of(planned(), options)
    parts = store.collect(mine, lambda one: one.key, rows_of, options, NAME)
    found = [parts.find(one.key) for one in planned()]
    frame = pd.DataFrame([row for rows in found for row in rows or []])
    store.save(NAME, frame, store.how_obtained(
        f"python -m benchmarks.results.{NAME}", "simulated", parts.seconds(), sorted(frame["seed"].unique().tolist()),
        [NOMINAL_NOTE], commit=parts.commits(), runs_missing=sum(rows is None for rows in found),
    ))  # fmt: skip


# --- the page --------------------------------------------------------------------------------------------------


def section(frame: pd.DataFrame, how: store.How) -> str:
    """The section of the page on whole runs against the least that a run can take."""
    from benchmarks.results.drawing import image

    frame = runs_of(frame)
    draw(frame)
    text = [
        "## Small: 3 to 5 devices against the least that a run can take",
        prose("""The time of a whole run, migrations included, over the least that a run of the same instance can take,
            which is that of a run that knows the future. `exact` does not know it, and finds the best placement for
            each interval. For EdgeShard the better of two runs counts, as in the next section. *Over* is the number of
            instances; the interval is the 95 % bootstrap interval of the mean."""),
        image(NAME, "Time of each policy's run over the least, by number of devices, in both settings"),
    ]
    for setting in SETTINGS:
        own = frame[frame["setting"] == setting]
        if len(own):
            text += [_basis(own), f"**{TITLES[setting]}**, `experiments/{SETTINGS[setting]}`:", _table(own)]
    return "\n\n".join([*text, store.obtained(how)])


def runs_of(frame: pd.DataFrame) -> pd.DataFrame:
    """The runs that are judged: of EdgeShard, the better for each instance."""
    return with_better_edgeshard(frame, ("setting", "devices", "seed"))


def _basis(own: pd.DataFrame) -> str:
    """What the ratios of a setting are relative to."""
    least = own[own["policy"] == LEAST]
    proved = int(least["optimum"].astype(bool).sum())
    rest = "" if proved == len(least) else ", and in the others a bound that no run is under"
    return f"The least is the optimum in {proved} of {len(least)} instances{rest}."


def instances(own: pd.DataFrame) -> pd.DataFrame:
    """The runs of a setting with one number for each instance, so that all sizes can be paired together."""
    return own.assign(seed=100 * own["devices"] + own["seed"])


def _table(own: pd.DataFrame) -> str:
    rows = []
    for policy in POLICIES:
        runs = own[own["policy"] == policy]
        if runs.empty:
            continue
        cells: list[object] = [policy]
        for devices in sorted(own["devices"].unique()):
            found = ratio(own[own["devices"] == devices], policy, LEAST)
            cells.append(None if found is None else f"{found.value:.2f}")
        found = ratio(instances(own), policy, LEAST)
        ratios = ratios_of(instances(own), policy)
        cells += [
            None if found is None else f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})",
            len(ratios), len(runs) - int((runs["status"] == "done").sum()),
            None if ratios.empty else f"{(ratios <= 1 + WIDTHS[1]).mean():.0%}",
            None if ratios.empty else f"{ratios.max():.2f}",
        ]  # fmt: skip
        rows.append(cells)
    sizes = [f"{devices} devices" for devices in sorted(own["devices"].unique())]
    headings = ["policy", *sizes, "all sizes", "over", "not finished", f"within {WIDTHS[1]:.0%}", "worst"]
    return table(headings, rows)


def ratios_of(own: pd.DataFrame, policy: str) -> pd.Series:
    """The ratio to the least of each instance that both finished."""
    ours, least = finished(own, policy).align(finished(own, LEAST), join="inner")
    ratios: pd.Series = ours / least
    return ratios


def draw(frame: pd.DataFrame) -> None:
    """Draw a panel for each setting: each policy's mean ratio to the least by the number of devices, with intervals."""
    from benchmarks.results.drawing import FULL_WIDTH, colour, drawn, marker

    shown = POLICIES
    with drawn(NAME, FULL_WIDTH, 2.9, columns=len(SETTINGS)) as (figure, panels):
        for axes, setting in zip(panels, SETTINGS, strict=True):
            own = frame[frame["setting"] == setting]
            sizes = sorted(own["devices"].unique())
            for place, policy in enumerate(shown):
                found = {devices: ratio(own[own["devices"] == devices], policy, LEAST) for devices in sizes}
                points = [(devices, one) for devices, one in found.items() if one is not None]
                if not points:
                    continue
                shift = 0.07 * (place - (len(shown) - 1) / 2)
                axes.errorbar(
                    [devices + shift for devices, _ in points], [one.value for _, one in points],
                    yerr=[[one.value - one.low for _, one in points], [one.high - one.value for _, one in points]],
                    fmt=marker(policy), color=colour(policy), markersize=3.5, linewidth=0.8,
                    label=policy,
                )  # fmt: skip
            for width in WIDTHS:
                axes.axhline(1 + width, color="#7f7f7f", linewidth=0.6, linestyle="--")
            axes.axhline(1, color="#333333", linewidth=0.6)
            axes.set_yscale("log")
            axes.set_ylim(0.95, TOP)
            axes.yaxis.set_major_locator(FixedLocator(TICKS))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter("{x:g}")
            axes.set_xticks(sizes)
            axes.set_xlim(min(sizes, default=0) - 0.5, max(sizes, default=0) + 0.5)
            axes.set_xlabel("devices")
            axes.set_title(TITLES[setting])
        panels[0].set_ylabel("time of a run over the least\n(logarithmic)")
        found = {text: line for axes in panels for line, text in zip(*axes.get_legend_handles_labels(), strict=True)}
        own = [policy for policy in shown if policy in found]
        figure.legend([found[policy] for policy in own], own, loc="outside upper center", ncols=4)


if __name__ == "__main__":
    main()
