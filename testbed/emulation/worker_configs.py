"""What each worker of a run is told at its start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from testbed.decoder.checkpoint import require_model
from testbed.emulation.host import in_user_mode_linux, switch_interval_s
from testbed.emulation.memory_limits import largest_frame_bytes
from testbed.experiment.schema import Experiment
from testbed.worker.config import WorkerConfig


def worker_configs(
    experiment: Experiment,
    sockets: Path,
    beats: Mapping[str, str],
    positions: int,
    place: Callable[[str], Mapping[str, Any]],
) -> dict[str, WorkerConfig]:
    """The configuration of every device's worker; `place` gives the fields that say where it lives.

    `sockets` is the folder of the control sockets, `beats` each device's socket for heartbeats.
    """
    model = experiment.model
    files = model.required_files()
    stored = require_model(files) if files is not None else None
    return {
        device.name: WorkerConfig(
            device=device.name,
            shape=experiment.shape,
            stored=stored,
            model_seed=model.seed,
            positions=positions,
            prefill_chunk=experiment.prefill_chunk,
            partition=experiment.partition,
            control=str(sockets),
            most_bytes=largest_frame_bytes(experiment),
            paced=experiment.compute == "paced",
            dilation=experiment.dilation,
            switch_interval_s=switch_interval_s(),
            tight_heap=not in_user_mode_linux(),  # there it would cost a tenth of a fast link's rate
            beats=beats[device.name],
            model=device.model,
            **place(device.name),
        )
        for device in experiment.topology.devices
    }
