"""How fast a device is with weights in a format: as boards of its kind were measured, else as its topology says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from testbed.placement.observation import DeviceView
from testbed.planning.fleet import board_of
from testbed.topologies.model import Device, Topology
from testbed.validation.calibration import Calibration, Kernel
from testbed.validation.engines import DLLAMA, ENGINES, LLAMA_CPP

KERNELS: Mapping[str, Kernel] = {
    "float32": Kernel(LLAMA_CPP.name, "float16"), "bfloat16": Kernel(LLAMA_CPP.name, "float16"),
    "float16": Kernel(LLAMA_CPP.name, "float16"), "q8_0": Kernel(LLAMA_CPP.name, "q8_0"),
    "q4_1": Kernel(DLLAMA[-1].name, "q4_0"), "q4_0": Kernel(DLLAMA[-1].name, "q4_0"),
}  # fmt: skip
"""Format -> the kernel with the nearest format that rows of single boards tell a rate of."""

PROMPTS: Mapping[str, tuple[str, ...]] = {
    "float32": ("float32", "float16"), "bfloat16": ("bfloat16", "float16"), "float16": ("float16",),
    "q8_0": ("q8_0",), "q4_1": ("q4_1", "q4_k_m"), "q4_0": ("q4_0", "q4_k_m"),
}  # fmt: skip
"""Format -> formats whose rows of prompts tell the compute rate. Where none does, it is the catalogue's peak."""


@dataclass(frozen=True)
class DeviceRate:
    """What a device streams and computes, and from where that is known."""

    streaming_Bps: float
    compute_flops: float
    provenance: str  # `same-board`, `other-board` or `source`, as in a validation; `topology`
    story: str


def device_rates(topology: Topology, weights: str, calibration: Calibration) -> dict[str, DeviceRate]:
    """The rates of each device with weights in a format, by the device's name."""
    return {device.name: _rate(device, weights, calibration) for device in topology.devices}


def _rate(device: Device, weights: str, calibration: Calibration) -> DeviceRate:
    board = board_of(device)
    kernel = KERNELS[weights]
    found = None if board is None else calibration.rate(board, kernel, ENGINES[kernel.program])
    if board is None or found is None:
        return DeviceRate(device.streaming_Bps, device.compute_flops, "topology", "the topology's rates")
    told = [calibration.compute.get((board.family, Kernel(LLAMA_CPP.name, near).family)) for near in PROMPTS[weights]]
    flops = next((one for one in told if one is not None), device.compute_flops)
    return DeviceRate(found.streaming_Bps, flops, found.provenance, found.story)


def with_rates(view: DeviceView, rates: Mapping[str, DeviceRate]) -> DeviceView:
    """A device as policies see it, at these rates."""
    rate = rates[view.name]
    if rate.provenance == "topology":
        return view
    model = replace(view.model, plain_Bps=rate.streaming_Bps, plain_flops=rate.compute_flops)
    return replace(view, streaming_Bps=rate.streaming_Bps, compute_flops=rate.compute_flops, model=model)
