"""A dry run: what a run would do, and warnings about it, without starting anything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from testbed.controller.calibration import NOMINAL_SPEED, host_calibration
from testbed.controller.host_speed import (
    EXCESS_SHARE,
    HELD_UP_SHARE,
    HostSpeed,
    Operation,
    held_up_here,
    most_at_once,
    too_slow_here,
)
from testbed.controller.worst_first import worst_first
from testbed.decoder.checkpoint import find_model
from testbed.errors import EnvironmentLacks
from testbed.experiment.prompt import assumed_of_prompt
from testbed.experiment.schema import Experiment
from testbed.placement.blocks import Block, Kind, Placement, lm_head_read_bytes, read_bytes_by_format
from testbed.placement.latency import cost_seconds
from testbed.placement.observation import Observation
from testbed.placement.operation import Cost, block_cost, lm_head_cost
from testbed.placement.plan import Plan, halves_of
from testbed.running.backends import find_backend
from testbed.running.carry_out import at_this_hosts_pace
from testbed.running.check import check_experiment
from testbed.running.first_observation import first_observation
from testbed.running.late_rows import rows_that_wait
from testbed.running.memory_over_time import shortage_ahead
from testbed.running.request import Overrides, load_experiment
from testbed.topologies.links import UP

# Wall seconds on a machine with two cores, for an estimate only.
STARTING_S = 6.0  # to start the program and the devices, and to stop them
SIMULATION_STARTING_S = 1.0
SIMULATED_TOKEN_S = 0.002


def dry_run(
    experiment: str | Path | Experiment,
    *,
    policy: str | None = None,
    tokens: int | None = None,
    seed: int | None = None,
    overrides: Overrides = (),
    backend: str | None = None,
) -> dict[str, Any]:
    """Return what a run would do: blocks and bytes per device, link and cgroup settings, predicted latency, and time.

    Nothing is started, and neither root nor Mininet nor torch is needed. The arguments are those of `replay`. Keys end
    in their units; latencies are in milliseconds of emulated time. Raises ConfigError for what is wrong with the
    experiment, and Infeasible (a RunFailed) if the policy has no first placement.

    Example: `dry_run("experiments/quickstart.yaml", policy="greedy")["predicted_token_ms"]`
    """
    loaded = load_experiment(experiment, overrides, policy=policy, tokens=tokens, seed=seed)
    prompt = check_experiment(loaded, computed=False)
    emulated = backend is None or find_backend(backend).emulated
    return plan_run(at_this_hosts_pace(loaded, emulated), len(prompt), emulated)


def plan_run(experiment: Experiment, prompt_tokens: int, emulated: bool = True) -> dict[str, Any]:
    """Return what a run of a checked experiment would do; see `dry_run`."""
    from testbed.controller.policy_call import call_policy, reset_policy
    from testbed.placement.cost.memory import Infeasible, shortages
    from testbed.placement.cost.model import prefill_latency, token_latency
    from testbed.placement.plan import make_plan
    from testbed.placement.policies import make_policy

    observation = first_observation(experiment, prompt_tokens)
    remarks = [shortage_ahead(experiment, prompt_tokens), rows_that_wait(experiment)]
    policy = make_policy(experiment.policy, experiment.policy_options, experiment.placement)
    reset_policy(policy, experiment.seed, observation)
    answer = call_policy(policy, observation, None, experiment.decision_limit)
    placement = answer.placement
    if placement is None:
        raise Infeasible(f"policy {policy.name} has no first placement: {answer.reason}")
    plan = make_plan(observation, placement)
    links = _queues(experiment, observation)
    devices = _devices(experiment, observation, placement, links)
    ttft_s = prefill_latency(observation, plan, experiment.prefill_chunk)
    token_s = token_latency(observation, plan, observation.final_length)
    first_s = token_latency(observation, plan, observation.length)
    generated_s = ttft_s + (experiment.tokens - 1) * (first_s + token_s) / 2
    return {
        "experiment": experiment.name,
        "policy": experiment.policy,
        "model": experiment.shape.name,
        "prompt_tokens": prompt_tokens,
        "tokens": experiment.tokens,
        "source": experiment.topology.source,
        "dilation": experiment.dilation,
        "devices": devices,
        "links": {name: link for name, link in links.items() if name not in devices},
        "feasible": not shortages(observation, None, placement),
        "predicted_ttft_ms": ttft_s * 1e3,
        "predicted_token_ms": token_s * 1e3,
        "takes_s": _takes(experiment, generated_s, answer.decision_s, emulated),
        "warnings": [
            *filter(None, remarks),
            *unfaithful_here(experiment, observation, plan, token_s),
            *assumed_of_prompt(experiment),
            *_lacking_weights(experiment),
        ],
    }


def _takes(experiment: Experiment, generated_s: float, decision_s: float, emulated: bool) -> dict[str, float]:
    """Return about how long the run would take here, in wall seconds, and what that consists of.

    It is what it would take if conditions stayed and every decision took as long as the first one.
    """
    parts = {
        "starting": STARTING_S if emulated else SIMULATION_STARTING_S,
        "generating": generated_s * experiment.dilation if emulated else experiment.tokens * SIMULATED_TOKEN_S,
        "deciding": decision_s * math.ceil(experiment.tokens / experiment.interval),
    }
    return {"total": sum(parts.values())} | parts


def _queues(experiment: Experiment, observation: Observation) -> dict[str, dict[str, Any]]:
    """Return the queues that would shape each link, in wall units, and its delays, by the link's name.

    The medium of a wifi has one queue, `up`.
    """
    from testbed.emulation.shaping import tbf_settings

    found: dict[str, dict[str, Any]] = {name: {} for name in observation.links}
    for name, way in experiment.topology.interfaces:
        link = observation.links[name]
        found[name][way] = tbf_settings((link.up_bps if way == UP else link.down_bps) / experiment.dilation)
    for name, link in observation.links.items():
        found[name] |= {"up_delay_s": link.up_delay_s, "down_delay_s": link.down_delay_s}
    return found


def _devices(
    experiment: Experiment, observation: Observation, placement: Placement, links: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return what each device would hold and how it would be limited, by the device's name."""
    from testbed.emulation.memory_limits import memory_limit_bytes
    from testbed.placement.cost.memory import device_needs

    needs = device_needs(observation, placement, observation.prompt_tokens + experiment.tokens - 1)
    found: dict[str, dict[str, Any]] = {}
    for view in observation.devices:
        blocks = placement.on(view.name)
        found[view.name] = {
            "blocks": [str(block) for block in blocks],
            "heads": sum(block.kind == "head" for block in blocks),
            **{kind: sum(block.kind == kind for block in blocks) for kind in ("proj", "ffn", "sum", "vocab")},
            "need_bytes": needs[view.name],
            "budget_bytes": view.available_bytes,
            "limit_bytes_over_baseline": memory_limit_bytes(experiment, view.name),
            **links.get(view.name, {}),  # of its own link, if it has one
            "streaming_Bps": view.streaming_Bps,
            "compute_flops": view.compute_flops,
        }
    return found


def operations_at_once(
    observation: Observation, plan: Plan, dilation: float, speed: HostSpeed
) -> dict[str, list[Operation]]:
    """Return, for each device, its operations for the last token and how many devices compute at the same time."""
    shape, partition, length = observation.shape, observation.partition, observation.final_length
    found: dict[str, list[Operation]] = {view.name: [] for view in observation.devices}

    def add(device: str, count: int, costs: Sequence[tuple[Cost, Mapping[str, float]]], adds_up: bool = False) -> None:
        view = observation.device(device)
        due_s = sum(cost_seconds(cost, view) for cost, _ in costs) * dilation
        found[device].append(Operation(count, sum(speed.as_float32(read) for _, read in costs), due_s, adds_up))

    def cost(device: str, kind: Kind, layer: int, index: int) -> tuple[Cost, Mapping[str, float]]:
        block, model = Block(kind, layer, index), observation.device(device).model
        read = read_bytes_by_format(shape, block, length, partition)
        return block_cost(shape, block, length, 1, partition, model), read

    for layer, halves in enumerate(plan.layers):
        for which, (half, kind) in enumerate(zip((halves.attention, halves.ffn), halves_of(partition), strict=True)):
            for device, parts in half.work.items():
                assert kind.work is not None
                add(device, len(half.work), [cost(device, kind.work, layer, part) for part in parts])
            if kind.target is not None:
                for device in half.targets:
                    meeting = [cost(device, kind.target, layer, which if kind.target == "sum" else 0)]
                    add(device, len(half.targets), meeting, kind.target == "sum")
    if plan.vocab is None:
        head_format = shape.format_of("vocab", "rows")
        whole = lm_head_cost(shape, observation.device(plan.source).model)
        add(plan.source, 1, [(whole, {head_format: lm_head_read_bytes(shape)})])
    else:
        for device, parts in plan.vocab.work.items():
            add(device, len(plan.vocab.work), [cost(device, "vocab", 0, part) for part in parts])
    return found


def unfaithful_here(experiment: Experiment, observation: Observation, plan: Plan, token_s: float) -> list[str]:
    """Return a warning if this host cannot keep up with all devices that compute at once; else nothing."""
    if experiment.compute != "paced":
        return []
    host = host_calibration()
    speed = host.speed or NOMINAL_SPEED
    operations = operations_at_once(observation, plan, experiment.dilation, speed)
    slow = too_slow_here(speed, operations)
    held_up = held_up_here(speed, operations, token_s * experiment.dilation)
    if not slow and not held_up:
        return []
    whose = "as calibrated" if host.speed else "if it is like the one this was written on: see `testbed calibrate`"
    found, what, allowed = (
        (slow, "operations would take longer on this host ({whose}) than on the emulated device", EXCESS_SHARE)
        if slow
        else (held_up, "devices would wait too long for a core of this host ({whose})", HELD_UP_SHARE)
    )
    told = worst_first("device", {device: (share, f"{100 * share:.2g} %") for device, share in found.items()})
    dilation = max(2, math.ceil(max(held_up.values(), default=0.0) / HELD_UP_SHARE)) * experiment.dilation
    return [
        f"with up to {most_at_once(operations)} devices computing at once, {what.format(whose=whose)}: {told}; "
        f"{100 * allowed:.2g} % are allowed: use slower devices, fewer of them, or `dilation: {dilation:g}`"
    ]


def _lacking_weights(experiment: Experiment) -> list[str]:
    """Return a warning if the model has no weights here; else nothing."""
    try:
        files = experiment.model.required_files()
    except EnvironmentLacks as error:
        return [str(error)]
    if files is None or find_model(files) is not None:
        return []
    return [f"{files} has no weights, so only the sim backend can carry this out"]
