"""The process that carries out one run: `python -m testbed.cli.inside RUN_FOLDER`.

It reads everything from the folder's manifest, puts a fleet, a policy and a controller together, and leaves a
complete run folder. For the mininet backend it is the first process of a capsule: when it ends, all ends.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

from testbed.calibration import HostCalibration
from testbed.cli.outcome import run_summary, summary_base
from testbed.cli.show import progress_bar
from testbed.cli.verification import verify
from testbed.controller.generation import Controller
from testbed.emulation.process_fleet import ProcessFleet
from testbed.errors import TestbedError
from testbed.experiment import Experiment
from testbed.placement.policies import make_policy
from testbed.prompt import prompt_ids
from testbed.runlog import RunLog

LIVE = "live.json"  # device -> pid in the capsule, while a run is up


def make_fleet(backend: str, experiment: Experiment, options: dict[str, Any], positions: int) -> ProcessFleet:
    """The fleet of a backend; Mininet is imported only for its own."""
    sockets = Path(options["sockets"])
    if backend == "mininet":
        from testbed.emulation.mininet_fleet import MininetFleet
        from testbed.emulation.state import RunState

        return MininetFleet(experiment, sockets, positions, state=RunState.attach(Path(options["state"])))
    from testbed.emulation.local_fleet import LocalFleet

    return LocalFleet(experiment, sockets, positions)


def run(folder: Path) -> int:
    """Carry out the run that `folder`'s manifest describes; returns the process's exit code."""
    log = RunLog(folder)
    manifest = log.read_manifest()
    options = manifest["options"]
    experiment = Experiment.from_dict(manifest["experiment"])
    prompt = prompt_ids(experiment)
    policy = make_policy(experiment.policy, experiment.policy_options, experiment.placement)
    fleet = make_fleet(manifest["backend"], experiment, options, len(prompt) + experiment.tokens)
    host = HostCalibration.from_dict(manifest["calibration"], str(folder))
    base = summary_base(folder, manifest["backend"], experiment)
    code, summary = 0, base | {"status": "failed", "tokens": [], "exit_code": 5, "error": "the run did not finish"}
    recorder = None
    try:
        with progress_bar(options["progress"], experiment.tokens, experiment.policy) as progress:
            controller = Controller(experiment, prompt, fleet, policy, log, progress, options["calibrate"], host)
            recorder = controller.recorder
            outcome = controller.run()
        summary = base | run_summary(experiment, controller, fleet, outcome, shared_host=options["share_host"])
        if options["hold"] and outcome.status == "done":
            _hold(folder, fleet)
        fleet.stop()
        if options["verify"] and outcome.tokens:
            summary["verified"], summary["verification"] = verify(experiment, prompt, outcome)
    except TestbedError as error:
        code = error.exit_code
        summary = base | {"status": "failed", "tokens": [], "exit_code": code, "error": str(error)}
        summary["error_kind"] = type(error).__name__
    except KeyboardInterrupt:
        code = 130
        tokens = [row["token_id"] for row in recorder.kept["tokens"]] if recorder else []
        summary = base | {"status": "interrupted", "tokens": tokens, "exit_code": code, "error": "interrupted"}
    except Exception as error:
        summary["error"] = f"a bug in testbed: {type(error).__name__}: {error}"
        raise
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is left must be written and taken down
        fleet.stop()
        manifest["facts"] = fleet.facts() | {"idle_private_bytes": fleet.idle_private_bytes}
        log.write_manifest(manifest)
        log.finish(summary)
    return code


def _hold(folder: Path, fleet: ProcessFleet) -> None:
    """Keep the network up until interrupted."""
    (folder / LIVE).write_text(json.dumps(fleet.network_pids()))
    print(f"Holding: `testbed exec {folder} DEVICE -- COMMAND` in another terminal; Ctrl-C ends it.", file=sys.stderr)
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        return
    finally:
        (folder / LIVE).unlink(missing_ok=True)


def main() -> None:
    """Entry point inside the capsule, or a plain child for the local backend."""
    from testbed.cli import INTERRUPTED
    from testbed.emulation.capsule import prepare_inner

    try:
        prepare_inner()  # a Ctrl-C that came while everything above was loaded is delivered here
        code = run(Path(sys.argv[1]))
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code)


if __name__ == "__main__":
    main()
