"""The tables, the figure and the claim about gaps on the page.

The gap of a decision is its cost divided by the optimum's cost, minus one, if the optimum was found.
"""

from __future__ import annotations

import pandas as pd

from benchmarks.results.paired import prose, table
from benchmarks.results.replayed import (
    DECIDED,
    FOUR_LAYERS,
    LIMIT_S,
    MEMORIES,
    ONE_LAYER,
    SCORES_ALONE,
    WHOLE_RUN,
)

METHOD = "paper-search"
CLAIMED = 0.20  # the wider figure of the paper
ORDER = (
    "headroom", METHOD, SCORES_ALONE, "greedy", "dynamic-threshold", "static", "round-robin", "single", "edgeshard",
    "layerwise", "galaxy", "tensor-parallel",
)  # fmt: skip
GAP = "gap"


def with_gaps(frame: pd.DataFrame) -> pd.DataFrame:
    """The decisions with their gaps."""
    made = frame[(frame["status"] == DECIDED) & frame["exact_s"].notna()]
    return made.assign(**{GAP: made["cost_s"] / made["exact_s"] - 1})


def of_setting(frame: pd.DataFrame, setting: str, shards: int) -> pd.DataFrame:
    """The rows of one setting."""
    return frame[(frame["setting"] == setting) & (frame["ffn_shards"] == shards)]


def decisions_of(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that are decisions, not whole runs."""
    return frame[frame["setting"] != WHOLE_RUN]


def title(setting: str, shards: int) -> str:
    """A setting in words."""
    heads = {ONE_LAYER: "One layer of 8 to 16 heads", FOUR_LAYERS: "Four layers of 8 heads"}[setting]
    return f"{heads}, " + ("FFNs whole" if shards == 1 else f"FFNs in {shards} shards")


def intro(frame: pd.DataFrame) -> str:
    """The introduction: what a gap is, and which instances were used."""
    own = decisions_of(frame)
    instances = own[["setting", "devices", "memory", "ffn_shards", "seed"]].drop_duplicates()
    compared = int(own["exact_s"].notna().sum())
    shown = int((own["proved"] & own["exact_s"].notna()).sum())
    return prose(f"""A decision's *gap* is how much more it costs than the optimum for the same interval, from the same
        observation and the same present placement. The cost is that of the migration and the interval's tokens,
        without the LM head. Each decision of a policy's own run was also given to [`exact`](exact.md), with
        {LIMIT_S:g} s per decision; it proved {shown} of
        {compared} optima. {len(instances)} instances on 3, 4 and 5 devices were drawn from
        `experiments/small-scale.yaml`, four decisions each (λ = 8): links and speeds fluctuate; memory is
        {MEMORIES["tight"].replace(" x ", " times the ")} and shrinks and grows (*tight*), or
        {MEMORIES["loose"].replace(" x ", " times the ")} (*loose*).""")


def policies_table(own: pd.DataFrame) -> str:
    """The gaps of first placements and of later decisions, and the decisions without a placement."""
    made = with_gaps(own)
    rows = []
    for policy in ORDER:
        asked, gaps = own[own["policy"] == policy], made[made["policy"] == policy]
        if not len(asked):
            continue
        missed = asked[asked["status"] != DECIDED]
        first, later = gaps.loc[gaps["decision"] == 0, GAP], gaps.loc[gaps["decision"] > 0, GAP]
        rows.append([
            policy, len(gaps), len(missed), int(missed["exact_s"].notna().sum()),
            percent(first.mean()), percent(first.max()), f"{(first <= CLAIMED).mean():.0%}" if len(first) else None,
            percent(later.mean()), percent(later.max()),
        ])  # fmt: skip
    headings = ["policy", "decided", "not decided", "possible", "first: mean", "first: worst",
                f"first within {CLAIMED:.0%}", "later: mean", "later: worst"]  # fmt: skip
    note = prose("""*Not decided*: the policy found no placement that fits, or kept one that does not; its run ends
        there. *Possible*: how many of these `exact` found a placement for. A later decision starts from the policy's
        own placement and seldom moves anything, so its gap says little; that of the first decision says more.""")
    return table(headings, rows) + "\n\n" + note


def percent(gap: float) -> str | None:
    """A gap as a percentage; None is the gap of no decision."""
    return None if pd.isna(gap) else f"{max(gap, 0.0):.2%}"


def causes(frame: pd.DataFrame) -> str:
    """The decisions in which the paper's method is farther from the optimum than claimed, and the reasons."""
    made = with_gaps(decisions_of(frame))
    own, first = made[made["policy"] == METHOD], made[made["decision"] == 0]
    beyond = own[own[GAP] > CLAIMED]
    rows = []
    for setting, shards in settings_of(made):
        cells: list[object] = [title(setting, shards)]
        for policy in (SCORES_ALONE, METHOD):
            gaps = of_setting(first[first["policy"] == policy], setting, shards)
            messages = gaps["messages"].sum() / max(1, gaps["exact_messages"].sum())
            cells += [percent(gaps[GAP].mean()), percent(gaps[GAP].max()), f"{messages:.1f}"]
        rows.append(cells)
    headings = ["first placements", "scores alone: mean", "worst", "messages", "with moves: mean", "worst", "messages"]
    text = prose(f"""`{METHOD}` is over {CLAIMED:.0%} off in {len(beyond)} of {len(own)} decisions,
        {int((beyond["decision"] == 0).sum())} of them first placements. The reason is the paper's scores. Blocks are
        placed one by one, largest first, each on the device where the largest of its shares of what remains (of
        memory, computing time, link time) is smallest. This rule balances what remains and does not consider how long
        a token takes. A large FFN goes to the device with the most room, however slow; FFNs of consecutive layers go
        to devices in turn, before the blocks that they exchange messages with are placed; then the heads of each layer
        spread over all devices. Our local search afterwards corrects most of it. It stops where moving no single group
        of blocks pays, for example when a fast device is full of heads and the FFN would be better there. *Messages*
        are a token's, over the optimum's:""")
    return text + "\n\n" + table(headings, rows)


def settings_of(frame: pd.DataFrame) -> list[tuple[str, int]]:
    """The (layers, FFN shards) of all rows; one layer comes first."""
    found = frame.groupby(["setting", "ffn_shards"]).groups
    return sorted(
        ((str(setting), int(shards)) for setting, shards in found), key=lambda key: (key[0] != ONE_LAYER, key)
    )


def unproved(frame: pd.DataFrame) -> str:
    """The decisions whose optimum was not proved in time, with the remaining gap of the bound."""
    own = decisions_of(frame)
    own = own[~own["proved"] & own["exact_s"].notna()]
    if not len(own):
        return ""
    rows = [
        [row["setting"], row["ffn_shards"], row["devices"], row["memory"], row["seed"], row["decision"] + 1,
         row["policy"], f"{row['exact_s'] / row['bound_s'] - 1:.3%}"]
        for _, row in own.iterrows()
    ]  # fmt: skip
    headings = ["layers", "FFN shards", "devices", "memory", "seed", "decision", "after", "optimum may be lower by"]
    return f"Not proved within {LIMIT_S:g} s, so compared with the best found:\n\n" + table(headings, rows)


def runs_table(own: pd.DataFrame) -> str:
    """Whole runs compared with the offline optimum."""
    if not len(own):
        return ""
    made = with_gaps(own)
    possible = own[own["exact_s"].notna()]
    rows = []
    for policy in ("exact", *ORDER):
        asked, gaps = possible[possible["policy"] == policy], made.loc[made["policy"] == policy, GAP]
        if len(asked):
            rows.append([policy, len(gaps), len(asked) - len(gaps), percent(gaps.mean()), percent(gaps.max())])
    head = prose(f"""**Whole runs of tiny instances** (3 devices, one layer of 4 heads, 8 decisions,
        {own["seed"].nunique()} seeds with tight and with loose memory), beside the least that one can pay who knows the
        future (`exact-offline`). So the line of `exact` is what it costs not to know it.""")
    return head + "\n\n" + table(["policy", "finished", "not finished", "mean", "worst"], rows)


def draw(frame: pd.DataFrame) -> None:
    """Draw a panel for each setting with two boxes for each policy: first placements and later decisions."""
    from benchmarks.results.drawing import FULL_WIDTH, drawn

    made = with_gaps(decisions_of(frame))
    settings = settings_of(made)
    widest = 100 * max(made[GAP].max(), CLAIMED)
    looks = {"first placement": ("#333333", -0.19), "later decisions": ("#9a9a9a", 0.19)}
    with drawn("gaps", FULL_WIDTH, 3.4, columns=len(settings)) as (figure, panels):
        for axes, key in zip(panels, settings, strict=True):
            own = of_setting(made, *key)
            for place, policy in enumerate(ORDER):
                mine = own[own["policy"] == policy]
                parts = (mine.loc[mine["decision"] == 0, GAP], mine.loc[mine["decision"] > 0, GAP])
                for gaps, (colour, shift) in zip(parts, looks.values(), strict=True):
                    if len(gaps):
                        _box(axes, 100 * gaps.clip(lower=0), place + shift, colour)
                if not len(mine):
                    axes.text(0.02, place, "nothing fits", va="center", fontsize=6, color="#b2182b")
            axes.axvline(100 * CLAIMED, color="#7f7f7f", linewidth=0.6, linestyle="--")
            axes.set_xscale("symlog", linthresh=1.0)
            axes.set_xlim(-0.1, 1.3 * widest)
            axes.set_xticks([0, 1, 10, 100], ["0", "1", "10", "100"])
            axes.set_yticks(range(len(ORDER)), ORDER if axes is panels[0] else [])
            axes.set_ylim(len(ORDER) - 0.4, -0.6)
            axes.set_xlabel("gap to the optimum\n(%; symlog below 1)")
            layers, shards = key
            axes.set_title(f"{layers},\n" + ("FFNs whole" if shards == 1 else f"{shards} FFN shards"), fontsize=7)
        handles = [panels[0].plot([], [], color=colour, linewidth=4)[0] for colour, _ in looks.values()]
        figure.legend(handles, looks, loc="outside upper center", ncols=2)


def _box(axes, gaps: pd.Series, place: float, colour: str) -> None:  # type: ignore[no-untyped-def]
    """Draw the middle half as a bar, the whole range as a line, and the mean as a dot."""
    low, high = gaps.quantile(0.25), gaps.quantile(0.75)
    axes.hlines(place, gaps.min(), gaps.max(), color=colour, linewidth=0.8)
    axes.hlines(place, low, high, color=colour, linewidth=4, alpha=0.6)
    axes.plot(gaps.mean(), place, marker="o", markersize=2.5, color=colour, mec="black", mew=0.3)
