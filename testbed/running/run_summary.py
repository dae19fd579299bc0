"""The summary of a run, put together from what the controller recorded and what the fleet says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from testbed.controller.fleet import Fleet
from testbed.controller.generation import Controller, Outcome
from testbed.controller.verdict import Asked, verdict
from testbed.errors import INTERRUPTED, RunFailed, TestbedError
from testbed.experiment.schema import Experiment
from testbed.runlog.energy import busy_seconds, energy
from testbed.runlog.summary import losses, summarise
from testbed.running.backends import find_backend


def summary_base(folder: Path, backend: str, experiment: Experiment) -> dict[str, Any]:
    """Return what a summary says however the run ends."""
    return {
        "run": folder.name, "path": str(folder), "backend": backend,
        "provenance": find_backend(backend).provenance, "policy": experiment.policy, "experiment": experiment.name,
        "seed": experiment.seed, "model_weights": experiment.model.weights_told,
    }  # fmt: skip


def unfinished(error: Exception | None = None) -> dict[str, Any]:
    """Return what a summary says of a run that this error ended before its figures were known; None: nobody knows."""
    if error is None:
        return {"status": "failed", "tokens": [], "exit_code": RunFailed.exit_code, "error": "the run did not finish"}
    if isinstance(error, TestbedError):
        told = {"status": "failed", "tokens": [], "exit_code": error.exit_code, "error": str(error)}
        return told | {"error_kind": type(error).__name__}
    return unfinished() | {"error": f"a bug in testbed: {type(error).__name__}: {error}"}


def interrupted() -> dict[str, Any]:
    """Return what a summary says of a run that Ctrl-C ended."""
    return {"status": "interrupted", "tokens": [], "exit_code": INTERRUPTED, "error": "interrupted"}


def run_summary(
    experiment: Experiment,
    controller: Controller,
    fleet: Fleet,
    outcome: Outcome,
    shared_host: bool = False,
    resumed: int = 0,
) -> dict[str, Any]:
    """Return the figures of a run that came to an end of its own, good or bad, after it was resumed so many times."""
    kept = controller.recorder.kept
    facts = fleet.facts()
    figures = summarise(
        kept["tokens"], kept["migrations"], kept["decisions"], kept["devices"], kept["spans"],
        charge_decision=experiment.charge_decision,
    )  # fmt: skip
    busy_s = facts.get("busy_s") or busy_seconds(kept["spans"])
    models = {device.name: device.model for device in experiment.topology.devices}
    figures |= energy(models, busy_s, figures["total_s"], len(outcome.tokens))
    faithful = verdict(kept, facts, controller.calibrated, _asked(experiment, shared_host))
    return {
        "status": outcome.status,
        "error": str(outcome.error) if outcome.error else None,
        "error_kind": type(outcome.error).__name__ if outcome.error else None,
        "exit_code": outcome.error.exit_code if outcome.error else 0,
        "tokens": outcome.tokens,
        "text": None,
        "verified": None,
        **figures,
        **losses(kept["faults"], kept["recoveries"]),
        "oom_kills": max(fleet.oom_kills(), sum(row["cause"] == "oom" for row in kept["faults"])),
        "resumed": resumed,
        "memory_enforcement": facts["memory"],
        "verdict": faithful,
    }


def _asked(experiment: Experiment, shared_host: bool) -> Asked:
    """Return what the experiment asks of the emulation, for the verdict."""
    lossy = {cable.name for cable in experiment.topology.links if cable.link.up_loss or cable.link.down_loss}
    for trace in experiment.traces.traces:
        lossy |= {target.removeprefix("link/") for target, quantity in trace.series if quantity == "loss"}
    shaken = any(cable.link.up_jitter_s or cable.link.down_jitter_s for cable in experiment.topology.links)
    return Asked(experiment.compute == "paced", experiment.trace_clock == "time", shared_host, lossy, shaken)
