"""What a run would do, before it does it: the first observation, and the dry run's plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from testbed.controller.calibration import NOMINAL_SPEED, HostCalibration, host_calibration
from testbed.controller.conditions import Conditions, observe
from testbed.controller.host_speed import EXCESS_SHARE, Operation, most_at_once, too_slow_here
from testbed.controller.worst_first import worst_first
from testbed.decoder.checkpoint import find_tensors
from testbed.experiment.prompt import assumed_of_prompt
from testbed.experiment.schema import Experiment
from testbed.placement.blocks import (
    Block,
    Kind,
    block_flops,
    block_read_bytes,
    lm_head_flops,
    lm_head_read_bytes,
    operation_seconds,
)
from testbed.placement.cost.latency import STALLED_RATE
from testbed.placement.observation import Observation
from testbed.placement.plan import Plan, halves_of


def first_observation(experiment: Experiment, prompt_tokens: int, host: HostCalibration | None = None) -> Observation:
    """What the policy will be shown at token 0: the topology, overlaid by the traces' values at time 0.

    `host` is what is known of this host; by default what its file says.
    """
    conditions = Conditions(experiment)
    conditions.begin()
    hop_s = (host or host_calibration()).hop_overhead_s / experiment.dilation
    return observe(experiment, conditions, prompt_tokens, 0, hop_s)


def dry_run(experiment: Experiment, prompt_tokens: int) -> dict[str, Any]:
    """The plan of a run: blocks and bytes per device, link and cgroup settings, predicted latency.

    Needs neither root nor Mininet nor torch. Raises Infeasible when the policy has no first placement.
    """
    from testbed.controller.policy_call import call_policy, reset_policy
    from testbed.emulation.memory_limits import memory_limit_bytes
    from testbed.emulation.shaping import tbf_settings
    from testbed.placement.cost.memory import Infeasible, device_needs, shortages
    from testbed.placement.cost.model import prefill_latency, token_latency
    from testbed.placement.plan import make_plan
    from testbed.placement.policies import make_policy
    from testbed.running.lasting import may_not_last

    observation = first_observation(experiment, prompt_tokens)
    ends = may_not_last(experiment, prompt_tokens)
    policy = make_policy(experiment.policy, experiment.policy_options, experiment.placement)
    reset_policy(policy, experiment.seed)
    answer = call_policy(policy, observation, None, experiment.decision_limit)
    placement = answer.placement
    if placement is None:
        raise Infeasible(f"policy {policy.name} has no first placement: {answer.reason}")
    plan = make_plan(observation, placement)
    needs = device_needs(observation, placement, prompt_tokens + experiment.tokens - 1)
    links = {
        name: {
            "up": tbf_settings(link.up_bps / experiment.dilation),
            "down": tbf_settings(link.down_bps / experiment.dilation),
            "up_delay_s": link.up_delay_s,
            "down_delay_s": link.down_delay_s,
        }
        for name, link in observation.links.items()
    }
    devices: dict[str, Any] = {}
    for view in observation.devices:
        blocks = placement.on(view.name)
        devices[view.name] = {
            "blocks": [str(block) for block in blocks],
            "heads": sum(block.kind == "head" for block in blocks),
            **{kind: sum(block.kind == kind for block in blocks) for kind in ("proj", "ffn", "sum", "vocab")},
            "need_bytes": needs[view.name],
            "budget_bytes": view.available_bytes,
            "limit_bytes_over_baseline": memory_limit_bytes(experiment, view.name),
            **links.get(view.name, {}),  # of its own link, where it has one
            "streaming_Bps": view.streaming_Bps,
            "compute_flops": view.compute_flops,
        }
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
        "predicted_ttft_ms": prefill_latency(observation, plan, experiment.prefill_chunk) * 1e3,
        "predicted_token_ms": token_latency(observation, plan, observation.final_length) * 1e3,
        "warnings": [
            *([ends] if ends else []),
            *warnings(experiment, operations_at_once(observation, plan, experiment.dilation)),
            *assumed_of_prompt(experiment),
            *_lacking_weights(experiment),
        ],
    }


def operations_at_once(observation: Observation, plan: Plan, dilation: float) -> dict[str, list[Operation]]:
    """What each device does for the last token, and how many devices compute at the same time."""
    shape, partition, length = observation.shape, observation.partition, observation.final_length
    found: dict[str, list[Operation]] = {view.name: [] for view in observation.devices}

    def add(device: str, count: int, costs: Sequence[tuple[float, float]]) -> None:
        view = observation.device(device)
        compute_flops, streaming_Bps = max(view.compute_flops, STALLED_RATE), max(view.streaming_Bps, STALLED_RATE)
        due_s = sum(operation_seconds(flops, size, compute_flops, streaming_Bps) for flops, size in costs)
        found[device].append(Operation(count, sum(size for _, size in costs), due_s * dilation))

    def cost(kind: Kind, layer: int, index: int) -> tuple[float, float]:
        block = Block(kind, layer, index)
        return block_flops(shape, block, length, 1, partition), block_read_bytes(shape, block, length, partition)

    for layer, halves in enumerate(plan.layers):
        for which, (half, kind) in enumerate(zip((halves.attention, halves.ffn), halves_of(partition), strict=True)):
            for device, parts in half.work.items():
                assert kind.work is not None
                add(device, len(half.work), [cost(kind.work, layer, part) for part in parts])
            if kind.target is not None:
                meeting = [cost(kind.target, layer, which if kind.target == "sum" else 0)]
                for device in half.targets:
                    add(device, len(half.targets), meeting)
    if plan.vocab is None:
        add(plan.source, 1, [(lm_head_flops(shape), lm_head_read_bytes(shape))])
    else:
        for device, parts in plan.vocab.work.items():
            add(device, len(plan.vocab.work), [cost("vocab", 0, part) for part in parts])
    return found


def warnings(experiment: Experiment, operations: Mapping[str, Sequence[Operation]]) -> list[str]:
    """What may make the run unfaithful: devices that this host does not keep up with where they compute at once."""
    if experiment.compute != "paced":
        return []
    host = host_calibration()
    speed = host.speed or NOMINAL_SPEED
    slow = too_slow_here(speed, operations)
    if not slow:
        return []
    whose = "as calibrated" if host.speed else "if it is like the one this was written on: see `testbed calibrate`"
    told = worst_first("device", {device: (share, f"{100 * share:.0f} %") for device, share in slow.items()})
    return [
        f"with up to {most_at_once(operations)} devices computing at once, operations would take longer on this host "
        f"({whose}) than on the emulated device: {told}; {100 * EXCESS_SHARE:.0f} % are allowed: use slower devices, "
        "fewer of them, or `dilation: 2`"
    ]


def _lacking_weights(experiment: Experiment) -> list[str]:
    """That the model has no weights, in a sentence; none where it has some."""
    path = experiment.model.path
    if path is None or find_tensors(Path(path)) is not None:
        return []
    return [f"{path} has no weights, so only the sim backend can carry this out"]
