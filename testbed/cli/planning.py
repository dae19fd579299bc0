"""What a run would do, before it does it: the first observation, and the dry run's plan."""

from __future__ import annotations

from typing import Any

from testbed.calibration import HostCalibration, host_calibration
from testbed.controller.conditions import Conditions, observe
from testbed.experiment import Experiment
from testbed.placement.blocks import Block, block_read_bytes
from testbed.placement.observation import Observation
from testbed.shape import PRESETS


def first_observation(
    experiment: Experiment, prompt_tokens: int, host: HostCalibration | None = None
) -> Observation:
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
    from testbed.cli.lasting import may_not_last
    from testbed.controller.asking import ask, reset
    from testbed.emulation.settings import memory_limit_bytes, queue_settings
    from testbed.placement.costs import prefill_latency, token_latency
    from testbed.placement.feasibility import Infeasible, device_needs, shortages
    from testbed.placement.plan import make_plan
    from testbed.placement.policies import make_policy

    observation = first_observation(experiment, prompt_tokens)
    ends = may_not_last(experiment, prompt_tokens)
    policy = make_policy(experiment.policy, experiment.policy_options, experiment.placement)
    reset(policy, experiment.seed)
    answer = ask(policy, observation, None, experiment.decision_limit)
    placement = answer.placement
    if placement is None:
        raise Infeasible(f"policy {policy.name} has no first placement: {answer.reason}")
    plan = make_plan(observation, placement)
    needs = device_needs(observation, placement, prompt_tokens + experiment.tokens - 1)
    links = {
        name: {
            "up": queue_settings(link.up_bps / experiment.dilation),
            "down": queue_settings(link.down_bps / experiment.dilation),
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
        "devices": devices,
        "links": {name: link for name, link in links.items() if name not in devices},
        "feasible": not shortages(observation, None, placement),
        "predicted_ttft_ms": prefill_latency(observation, plan, experiment.prefill_chunk) * 1e3,
        "predicted_token_ms": token_latency(observation, plan, observation.final_length) * 1e3,
        "warnings": [*([ends] if ends else []), *warnings(experiment)],
    }


HOST_STREAMING_BPS = 24e9  # one core's memory bandwidth on the machine this was written on; `calibrate` measures yours


def warnings(experiment: Experiment) -> list[str]:
    """What may make the run unfaithful."""
    total = sum(device.streaming_Bps for device in experiment.topology.devices) / experiment.dilation
    most = host_streaming_Bps(host_calibration()) / 2
    if total > most:
        return [
            f"the devices' streaming rates add up to {total / 1e9:.1f} GB/s; over {most / 1e9:.0f} GB/s "
            "a host cannot keep up: use slower devices or `dilation`, and see `testbed doctor`"
        ]
    return []


def host_streaming_Bps(host: HostCalibration) -> float:
    """What one core of this host reads from memory, byte/s: from its calibrated time for an FFN, the largest block."""
    seconds = host.block_seconds.get("ffn", 0.0)
    if not seconds or host.model not in PRESETS:
        return HOST_STREAMING_BPS
    return block_read_bytes(PRESETS[host.model], Block("ffn", 0), 1) / seconds
