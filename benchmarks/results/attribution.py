"""Splits a predicted token latency into computing, links and software.

A predicted latency consists of maxima and sums of block times, transfers and the software's time per hop. If all block
times grow by a small share, the latency grows by that share of the block times on its critical path. The same holds for
the other two. So the three derivatives add up to the latency, and no second formula is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from testbed import analysis
from testbed.controller.conditions import Conditions, observe
from testbed.experiment.prompt import prompt_ids
from testbed.experiment.schema import Experiment
from testbed.placement.blocks import Placement, parse_block
from testbed.placement.cost.model import token_latency
from testbed.placement.observation import Observation
from testbed.placement.plan import Plan, make_plan

STEP = 1e-6  # the small share; a latency is linear except where two paths are equally long
TRUST = 1e-3  # the parts must add up to the latency within this share of it


def predicted_parts(folder: Path) -> dict[int, dict[str, float]]:
    """The predicted compute, transfer and software seconds of each token of a run, by step.

    The result is empty on the time clock, where conditions change within an interval. Raises ValueError if the parts do
    not add up to the prediction in the run's log.
    """
    run = analysis.load(folder)
    experiment = Experiment.from_dict(run.manifest["experiment"], run.manifest["experiment_name"])
    if experiment.trace_clock != "token":
        return {}
    predicted = run.decoded.set_index("step")["predicted_s"]
    found = {}
    for step, length, observation, plan in _plans(run, experiment):
        parts = {
            "compute": _grown(slower_devices(observation), observation, plan, length),
            "transfer": _grown(slower_links(observation), observation, plan, length),
            "software": _grown(slower_software(observation), observation, plan, length),
        }
        if abs(sum(parts.values()) - predicted[step]) > TRUST * predicted[step]:
            raise ValueError(f"{folder}: token {step} was predicted as {predicted[step]} s, its parts are {parts}")
        found[step] = parts
    return found


def _plans(run: analysis.Run, experiment: Experiment) -> Iterator[tuple[int, int, Observation, Plan]]:
    """The (step, sequence length, conditions, plan) of each decode token."""
    prompt = len(prompt_ids(experiment))
    hop_s = run.manifest["calibration"]["hop_overhead_s"] / experiment.dilation
    conditions = Conditions(experiment)
    conditions.begin()
    starts = run.placements.groupby("epoch")["step"].min().sort_index()
    for boundary, begin in enumerate(range(0, experiment.tokens, experiment.interval)):
        if begin:
            conditions.advance(float(begin), boundary)
        observation = observe(experiment, conditions, prompt, begin, hop_s)
        epoch = starts[starts <= begin].index.max()
        rows = run.placements[run.placements["epoch"] == epoch]
        placed = {parse_block(row.block): row.device for row in rows.itertuples()}
        plan = make_plan(observation, Placement(placed, epoch=int(epoch)))
        for step in range(max(1, begin), min(begin + experiment.interval, experiment.tokens)):
            yield step, prompt + step, observation, plan


def _grown(changed: Observation, observation: Observation, plan: Plan, length: int) -> float:
    return (token_latency(changed, plan, length) - token_latency(observation, plan, length)) / STEP


def slower_devices(observation: Observation) -> Observation:
    """The same devices with all block times longer by the share `STEP`."""
    devices = tuple(
        replace(view, streaming_Bps=view.streaming_Bps / (1 + STEP), compute_flops=view.compute_flops / (1 + STEP))
        for view in observation.devices
    )
    return replace(observation, devices=devices)


def slower_links(observation: Observation) -> Observation:
    """The same links with all transfers and delays longer by the share `STEP`."""
    links = {
        name: replace(
            link,
            up_bps=link.up_bps / (1 + STEP),
            down_bps=link.down_bps / (1 + STEP),
            up_delay_s=link.up_delay_s * (1 + STEP),
            down_delay_s=link.down_delay_s * (1 + STEP),
        )
        for name, link in observation.links.items()
    }
    return replace(observation, links=links)


def slower_software(observation: Observation) -> Observation:
    """The same software with all hops longer by the share `STEP`."""
    return replace(observation, hop_overhead_s=observation.hop_overhead_s * (1 + STEP))
