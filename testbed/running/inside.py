"""The process that carries out one run: `python -m testbed.running.inside RUN_FOLDER SOCKET_FOLDER`.

It reads everything from the folder's manifest, puts a fleet, a policy and a controller together, and leaves a
complete run folder. For the mininet backend it is the first process of a capsule: when it ends, all ends. What it
cannot say in the run folder, it leaves in the socket folder for the process that waits for it.
"""

from __future__ import annotations

import errno
import json
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import zmq

from testbed.cli.show import progress_bar
from testbed.controller.calibration import HostCalibration
from testbed.controller.generation import Controller
from testbed.emulation.process_fleet import ProcessFleet
from testbed.emulation.spawn import forkserver_pid
from testbed.emulation.state_files import StateFile
from testbed.errors import EnvironmentLacks, TestbedError
from testbed.experiment.prompt import prompt_ids
from testbed.experiment.schema import Experiment
from testbed.placement.policies import make_policy
from testbed.runlog.folder import RunLog
from testbed.running.giving_back import giving_back
from testbed.running.launch import LAST_WORDS
from testbed.running.outcome import run_summary, summary_base
from testbed.running.verification import verify

LIVE = "live.json"  # device -> pid in the capsule, while a run is up
REMEDIES = {
    errno.EMFILE: "raise `ulimit -n`",
    errno.ENFILE: "close files elsewhere on this host",
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EFBIG: "raise `ulimit -f`",
    errno.EAGAIN: "raise `ulimit -u`",
    errno.ENOMEM: "use fewer devices or a smaller model",
    errno.EROFS: "use another --out",
    errno.EIO: "use another --out",
    errno.ESTALE: "use another --out",
    errno.ENOTCONN: "use another --out",
    errno.ESHUTDOWN: "use another --out",
}
"""What the host may be out of, or no longer have -> what helps."""


def make_fleet(backend: str, experiment: Experiment, options: dict[str, Any], positions: int) -> ProcessFleet:
    """The fleet of a backend; Mininet is imported only for its own."""
    sockets = Path(options["sockets"])
    if backend == "mininet":
        from testbed.emulation.mininet_fleet import MininetFleet

        return MininetFleet(experiment, sockets, positions, state_file=StateFile.attach(Path(options["state"])))
    from testbed.emulation.local_fleet import LocalFleet

    fleet = LocalFleet(experiment, sockets, positions)
    # No capsule ends it, should it be stopped when this process is killed.
    state = StateFile.attach(Path(options["state"]))
    state.record(processes=[*state.current.processes, forkserver_pid()])
    return fleet


def run(folder: Path) -> int:
    """Carry out the run that `folder`'s manifest describes; returns the process's exit code."""
    log = RunLog(folder)
    manifest = log.read_manifest()
    options = manifest["options"]
    experiment = Experiment.from_dict(manifest["experiment"])
    prompt = prompt_ids(experiment)
    policy = make_policy(experiment.policy, experiment.policy_options, experiment.placement)
    base = summary_base(folder, manifest["backend"], experiment)
    summary = base | {"status": "failed", "tokens": [], "exit_code": 5, "error": "the run did not finish"}
    fleet: ProcessFleet | None = None
    controller: Controller | None = None
    try:
        log.reserve()
        fleet = make_fleet(manifest["backend"], experiment, options, len(prompt) + experiment.tokens)
        host = HostCalibration.from_dict(manifest["calibration"], str(folder))
        with progress_bar(options["progress"], experiment.tokens, experiment.policy) as progress:
            controller = Controller(experiment, prompt, fleet, policy, log, progress, options["calibrate"], host)
            outcome = controller.run()
        summary = base | run_summary(experiment, controller, fleet, outcome, shared_host=options["share_host"])
        if options["hold"] and outcome.status == "done":
            _hold(folder, fleet)
        fleet.stop()
        if options["verify"] and outcome.tokens:
            summary["verified"], summary["verification"] = verify(experiment, prompt, outcome)
    except KeyboardInterrupt:
        summary = base | {"status": "interrupted", "tokens": [], "exit_code": 130, "error": "interrupted"}
    except Exception as error:
        told = error if isinstance(error, TestbedError) else _lack(error)
        if told is None:
            summary |= {"status": "failed", "error": f"a bug in testbed: {type(error).__name__}: {error}"}
            raise
        summary |= {"status": "failed", "exit_code": told.exit_code, "error": str(told)}
        summary["error_kind"] = type(told).__name__
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is left must be written and taken down
        if controller is not None:
            summary["tokens"] = controller.outcome.tokens
        try:
            if fleet is not None:
                fleet.stop()
                manifest["facts"] = fleet.facts() | {"idle_private_bytes": fleet.idle_private_bytes}
        finally:
            log.finish(summary, manifest)
    return int(summary["exit_code"])


def _lack(error: Exception) -> EnvironmentLacks | None:
    """The sentence on what this host is out of; None for an error that says nothing of the kind, and so is a bug."""
    if not isinstance(error, OSError | zmq.ZMQError) or error.errno not in REMEDIES:
        return None
    where = getattr(error, "filename", None)
    return EnvironmentLacks(f"{where or 'the run'}: {error.strerror}; {REMEDIES[error.errno]}")


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

    folder, sockets = map(Path, sys.argv[1:])
    try:
        prepare_inner()  # a Ctrl-C that came while everything above was loaded is delivered here
        with giving_back():  # what lies outside the run folder, such as a compiled policy
            code = run(folder)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except TestbedError as error:  # the folder took no summary
        code = error.exit_code
        with suppress(OSError):
            (sockets / LAST_WORDS).write_text(json.dumps({"error": str(error), "exit_code": code}))
    sys.exit(code)


if __name__ == "__main__":
    main()
