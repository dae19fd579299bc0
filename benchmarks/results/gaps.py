"""Measures the gap of each policy to the optimum of each decision, and of a whole run.

`python -m benchmarks.results.gaps` repeats each decision of each policy with `exact`, from the same observation and
placement, on drawn instances of one and of four layers. It also compares whole runs of tiny instances with the optimum
of an offline solver, which knows the future.
"""

from __future__ import annotations

import time

import pandas as pd

from benchmarks.results import store
from benchmarks.results.replayed import FOUR_LAYERS, MEMORIES, ONE_LAYER, VARIANTS, WHOLE_RUN, Instance, rows_of
from benchmarks.results.rows import MEASURED

NAME = "gaps"
DEVICES = (3, 4, 5)
SEEDS = {(ONE_LAYER, 1): 20, (FOUR_LAYERS, 1): 5, (WHOLE_RUN, 1): 5, (ONE_LAYER, 4): 5, (FOUR_LAYERS, 4): 2}
# These have their own parts, so that a change of `headroom` does not recompute the others; `static` asks `headroom`.
OURS = ("headroom", "static")
GROUPS = {"ours": OURS, "others": (*(name for name in MEASURED if name not in OURS), *VARIANTS)}


def planned() -> list[Instance]:
    """All instances in an order in which each first part has equal shares of all settings; whole FFNs come first."""
    instances = [
        Instance(setting, devices, memory, shards, seed)
        for (setting, shards), seeds in SEEDS.items()
        for seed in range(1, seeds + 1)
        for devices in (DEVICES if setting != WHOLE_RUN else DEVICES[:1])
        for memory in MEMORIES
    ]
    return sorted(instances, key=lambda one: (one.ffn_shards, one.seed / SEEDS[one.setting, one.ffn_shards]))


def collect(parts: store.Parts, stop_after_s: float | None) -> None:
    """Compute the missing instances in order until the time is up."""
    started, instances = time.monotonic(), planned()
    with store.bar(len(instances), NAME) as told:
        for number, instance in enumerate(instances):
            for group, policies in GROUPS.items():
                if parts.find(f"{instance.key}-{group}") is not None:
                    continue
                if stop_after_s is not None and time.monotonic() - started > stop_after_s:
                    return
                begun = time.process_time()
                rows = rows_of(instance, policies)
                parts.put(f"{instance.key}-{group}", rows, time.process_time() - begun)
            told(number + 1)


def main() -> None:
    """Compute the missing parts and save the table."""
    options = store.arguments(NAME, __doc__).parse_args()
    parts = store.Parts(options.parts)
    collect(parts, options.seconds)
    found = [[parts.find(f"{instance.key}-{group}") for group in GROUPS] for instance in planned()]
    whole = [groups for groups in found if None not in groups]  # for the others, some policies are missing
    frame = pd.DataFrame([row for groups in whole for rows in groups for row in rows or ()])
    for column in ("decision", "moved_blocks", "messages", "exact_messages"):
        frame[column] = frame[column].astype("Int64")
    store.save(NAME, frame, store.how_obtained(
        f"python -m benchmarks.results.{NAME}", "predicted", parts.seconds(), sorted(frame["seed"].unique().tolist()),
        instances_planned=len(found), instances_done=len(whole),
    ))  # fmt: skip


# --- the page --------------------------------------------------------------------------------------------------


def section(frame: pd.DataFrame, how: store.How) -> str:
    """The section of the page on gaps."""
    from benchmarks.results import gap_tables as told
    from benchmarks.results.drawing import image

    told.draw(frame)
    text = ["## Gaps: how far is each decision from the optimum?", told.intro(frame)]
    if how["instances_done"] < how["instances_planned"]:
        text.append(f"So far {how['instances_done']} of {how['instances_planned']} planned instances were computed.")
    text.append(image(NAME, "Each policy's gap to the optimum, in each setting"))
    text.append("Bar: the middle half of the decisions; line: all of them; dot: their mean; dashed: the paper's 20 %.")
    for setting, shards in SEEDS:
        own = told.of_setting(frame, setting, shards)
        if setting != WHOLE_RUN and len(own):
            text += [f"**{told.title(setting, shards)}.**", told.policies_table(own)]
    text += [told.causes(frame), told.unproved(frame)]
    text += [told.runs_table(told.of_setting(frame, WHOLE_RUN, 1)), store.obtained(how)]
    return "\n\n".join(part for part in text if part)


if __name__ == "__main__":
    main()
