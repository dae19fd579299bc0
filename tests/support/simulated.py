"""Simulated runs for tests: the quick start with changed keys, and a fleet that records its ledgers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from testbed.controller.calibration import NOMINAL, HostCalibration
from testbed.controller.generation import Controller, Outcome
from testbed.experiment.prompt import prompt_ids
from testbed.experiment.schema import Experiment
from testbed.placement.observation import Policy
from testbed.placement.policies import make_policy
from testbed.runlog.folder import TABLES, RunLog, read_rows
from testbed.running.simulated_run import simulate
from testbed.simulation.fleet import SimFleet
from testbed.traces import Change, Trace
from testbed.transport.messages import Arrived, Token

QUICKSTART = Path(__file__).parents[2] / "experiments" / "gpt2-star4.yaml"
# Keys of an experiment that wants neither the policy of the quick start nor its pace.
PLAIN: dict[str, Any] = {"policy": "round-robin", "policy_options": {}, "placement": None, "dilation": 1.0}
MANIFEST: dict[str, Any] = {"backend": "sim", "options": {"progress": False}}


def experiment(*overrides: str, changes: tuple[Change, ...] | None = None, **keys: Any) -> Experiment:
    """The quick start with `key=value` overrides and keys; `changes` replaces its traces by one of these rows."""
    loaded = Experiment.load(QUICKSTART, list(overrides)).to_dict() | keys
    if changes is not None:
        loaded["traces"] = [Trace(changes).to_dict()] if changes else []
    return Experiment.from_dict(loaded)


def simulated(
    out: Path, of: Experiment, host: HostCalibration = NOMINAL
) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """(summary, rows by table) of one simulated run."""
    summary = simulate(of, out, MANIFEST, host)
    folder = Path(summary["path"])
    tables = ("tokens", "decisions", "migrations", "devices", "links", "placements", "spans", "rates")
    return summary, {table: read_rows(folder, table) for table in tables}


class Forgetful:
    """A policy that remembers nothing, for tests to say what it decides."""

    name = "forgetful"

    def reset(self, seed: int) -> None:
        """Nothing."""


class Watched(SimFleet):
    """A simulated fleet that records each device's ledger at each token and after each arrival of blocks."""

    def __init__(self, of: Experiment) -> None:
        super().__init__(of, len(prompt_ids(of)), NOMINAL.hop_overhead_s)
        self.at_tokens: list[tuple[int, int, dict[str, int]]] = []  # (step, epoch, ledgers)
        self.at_arrivals: list[tuple[int, dict[str, int]]] = []  # (epoch, ledgers)

    def events(self, timeout_s: float) -> Any:
        found = super().events(timeout_s)
        ledgers = {sample.device: int(sample.ledger_bytes or 0) for sample in self.observe().devices}
        for _, event in found:
            if isinstance(event, Token):
                self.at_tokens.append((event.step, event.epoch, ledgers))
            elif isinstance(event, Arrived):
                self.at_arrivals.append((event.epoch, ledgers))
        return found


def drive(
    out: Path, of: Experiment, policy: Policy | None = None, fleet: type[Watched] = Watched
) -> tuple[Watched, Outcome, dict[str, Any]]:
    """A run on a watched fleet: (fleet, outcome, rows kept)."""
    made, log = fleet(of), RunLog.create(out, of.name, of.policy)
    policy = policy or make_policy(of.policy, of.policy_options, of.placement)
    controller = Controller(of, prompt_ids(of), made, policy, log, effort="off")
    outcome = controller.run()
    log.close()
    kept = {table: read_rows(log.folder, table) for table in TABLES}
    return made, outcome, kept
