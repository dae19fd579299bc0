"""One run in virtual time, in this process: the simulated fleet under the controller that also drives emulation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from testbed.controller.calibration import HostCalibration
from testbed.controller.generation import Controller
from testbed.errors import ConfigError, TestbedError
from testbed.experiment.prompt import assumed_of_prompt, prompt_ids
from testbed.experiment.schema import Experiment
from testbed.placement.policies import make_policy
from testbed.runlog.folder import RunLog
from testbed.runlog.writing import LogLost
from testbed.running.backends import FleetSetting, find_backend
from testbed.running.generated_text import shown
from testbed.running.run_summary import interrupted, run_summary, summary_base, unfinished


def simulate(experiment: Experiment, out: Path, manifest: dict[str, Any], host: HostCalibration) -> dict[str, Any]:
    """Simulate one run, leave its folder under `out`, and return its summary.

    `manifest` is completed and written. A run that fails has its error in the summary. A ConfigError is raised after
    the summary has been written, because no run of this experiment can succeed, and so is LogLost.
    """
    log = RunLog.create(out, experiment.name, experiment.policy)
    folder = log.folder.resolve()
    log.reserve()
    log.write_manifest(manifest | {"run": folder.name})
    base = summary_base(folder, manifest["backend"], experiment)
    summary = base | unfinished()
    prompt = prompt_ids(experiment, computed=False)
    policy = make_policy(experiment.policy, experiment.policy_options, experiment.placement)
    fleet = find_backend(manifest["backend"]).make_fleet(FleetSetting(experiment, len(prompt), host))
    try:
        with shown(experiment, None, stream=False, progress=manifest["options"]["progress"]) as told:
            controller = Controller(experiment, prompt, fleet, policy, log, told, "off", host)
            outcome = controller.run()
        summary = base | run_summary(experiment, controller, fleet, outcome)
        notes = [*fleet.facts()["notes"], *assumed_of_prompt(experiment)]
        summary["verdict"] = {"ok": True, "reasons": [], "notes": notes}
    except KeyboardInterrupt:
        summary = base | interrupted()
        raise
    except Exception as error:
        summary = base | unfinished(error)
        if isinstance(error, ConfigError | LogLost) or not isinstance(error, TestbedError):
            raise
    finally:
        log.finish(summary, manifest | {"run": folder.name, "facts": fleet.facts()})
    return summary
