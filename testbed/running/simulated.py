"""One run in virtual time, in this process: the simulated fleet under the controller that also drives emulation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from testbed.cli.show import progress_bar
from testbed.controller.calibration import HostCalibration
from testbed.controller.generation import Controller
from testbed.errors import ConfigError, TestbedError
from testbed.experiment.prompt import assumed_of_prompt, prompt_ids
from testbed.experiment.schema import Experiment
from testbed.placement.policies import make_policy
from testbed.runlog.folder import RunLog
from testbed.running.outcome import run_summary, summary_base
from testbed.simulation.fleet import SimFleet


def refuse_what_is_not_simulated(experiment: Experiment, verify: bool, hold: bool) -> None:
    """Raise ConfigError for what needs a device that really computes, or a network that really stands."""
    if verify:
        raise ConfigError("--verify needs logits, and the sim backend computes none: use --backend local or mininet")
    if hold:
        raise ConfigError("--hold keeps a network up, and the sim backend has none: use --backend mininet")
    if experiment.compute == "native":
        raise ConfigError(
            f"{experiment.name}: compute: native is this host's own speed, which the sim backend does not know; "
            "use compute: paced"
        )


def simulate(experiment: Experiment, out: Path, manifest: dict[str, Any], host: HostCalibration) -> dict[str, Any]:
    """Simulate one run and leave its folder under `out`; returns its summary. `manifest` is completed and written.

    Raises what made the run impossible, after the summary has been written; a run that fails has its error in it.
    """
    log = RunLog.create(out, experiment.name, experiment.policy)
    folder = log.folder.resolve()
    log.reserve()
    log.write_manifest(manifest | {"run": folder.name})
    base = summary_base(folder, "sim", experiment)
    summary = base | {"status": "failed", "tokens": [], "exit_code": 5, "error": "the run did not finish"}
    prompt = prompt_ids(experiment, computed=False)
    policy = make_policy(experiment.policy, experiment.policy_options, experiment.placement)
    fleet = SimFleet(experiment, len(prompt), host.hop_overhead_s / experiment.dilation)
    try:
        with progress_bar(manifest["options"]["progress"], experiment.tokens, experiment.policy) as told:
            controller = Controller(experiment, prompt, fleet, policy, log, told, "off", host)
            outcome = controller.run()
        summary = base | run_summary(experiment, controller, fleet, outcome)
        notes = [*fleet.facts()["notes"], *assumed_of_prompt(experiment)]
        summary["verdict"] = {"ok": True, "reasons": [], "notes": notes}
    except TestbedError as error:
        code = error.exit_code
        summary = base | {"status": "failed", "tokens": [], "exit_code": code, "error": str(error)}
        summary["error_kind"] = type(error).__name__
        if isinstance(error, ConfigError):
            raise
    except KeyboardInterrupt:
        summary = base | {"status": "interrupted", "tokens": [], "exit_code": 130, "error": "interrupted"}
        raise
    except Exception as error:
        summary["error"] = f"a bug in testbed: {type(error).__name__}: {error}"
        raise
    finally:
        log.finish(summary, manifest | {"run": folder.name, "facts": fleet.facts()})
    return summary
