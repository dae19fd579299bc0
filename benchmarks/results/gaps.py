"""How far each policy is from the optimum of each decision, and of a whole run.

`python -m benchmarks.results.gaps` replays every policy's decisions through `exact`, from the same observation and the
same present placement, on drawn instances of one layer and of four; and compares whole runs of tiny instances with the
best that is possible for one who knows the future.
"""

from __future__ import annotations

import time

import pandas as pd

from benchmarks.results import store
from benchmarks.results.replayed import FOUR_LAYERS, MEMORIES, ONE_LAYER, WHOLE_RUN, Instance, decisions, runs

NAME = "gaps"
DEVICES = (3, 4, 5)
SEEDS = {(ONE_LAYER, 1): 20, (ONE_LAYER, 4): 20, (FOUR_LAYERS, 1): 10, (FOUR_LAYERS, 4): 5, (WHOLE_RUN, 1): 20}


def planned() -> list[Instance]:
    """Every instance, the seeds varying slowest."""
    return [
        Instance(setting, devices, memory, shards, seed)
        for seed in range(1, max(SEEDS.values()) + 1)
        for (setting, shards), seeds in SEEDS.items()
        if seed <= seeds
        for devices in (DEVICES if setting != WHOLE_RUN else DEVICES[:1])
        for memory in MEMORIES
    ]


def collect(parts: store.Parts, stop_after_s: float | None) -> None:
    """Compute every instance that is not there yet, in order, until the time is up."""
    started, instances = time.monotonic(), planned()
    with store.bar(len(instances), NAME) as told:
        for number, instance in enumerate(instances):
            if parts.find(instance.key) is None:
                if stop_after_s is not None and time.monotonic() - started > stop_after_s:
                    return
                begun = time.process_time()
                rows = list((runs if instance.setting == WHOLE_RUN else decisions)(instance))
                parts.put(instance.key, rows, time.process_time() - begun)
            told(number + 1)


def main() -> None:
    """Compute what is missing and save the table."""
    options = store.arguments(NAME, __doc__).parse_args()
    parts, instances = store.Parts(options.parts), planned()
    collect(parts, options.seconds)
    found = {instance: parts.find(instance.key) for instance in instances}
    frame = pd.DataFrame([row for rows in found.values() for row in rows or ()])
    frame["decision"] = frame["decision"].astype("Int64")
    frame["moved_blocks"] = frame["moved_blocks"].astype("Int64")
    store.save(NAME, frame, store.how_obtained(
        f"python -m benchmarks.results.{NAME}", "predicted", parts.seconds(), sorted(frame["seed"].unique().tolist()),
        instances_missing=sum(rows is None for rows in found.values()),
    ))  # fmt: skip


if __name__ == "__main__":
    main()
