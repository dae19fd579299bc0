"""The process that carries out one emulated run: `python -m testbed.running.run_process RUN_FOLDER SOCKET_FOLDER`.

It reads everything from the folder's manifest, puts a fleet, a policy and a controller together, and leaves a complete
run folder. In a capsule it is the first process: when it ends, everything in there ends. If it cannot write into the
run folder, it leaves its error in the socket folder for the process that waits for it.
"""

from __future__ import annotations

import errno
import json
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import zmq

from testbed.controller.calibration import HostCalibration
from testbed.controller.fleet import Fleet
from testbed.controller.generation import Controller
from testbed.errors import INTERRUPTED, EnvironmentLacks, TestbedError
from testbed.experiment.prompt import language_for, prompt_ids
from testbed.experiment.schema import Experiment
from testbed.placement.policies import make_policy
from testbed.runlog.folder import RunLog
from testbed.runlog.journal import Past, Resumed, read_past
from testbed.runlog.rewinding import rewind
from testbed.running.backends import FleetSetting, find_backend
from testbed.running.carry_out import LAST_WORDS
from testbed.running.device_command import LIVE
from testbed.running.generated_text import shown, text_of
from testbed.running.ownership import given_to_sudo_user
from testbed.running.run_summary import interrupted, run_summary, summary_base, unfinished
from testbed.running.verification import verify

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
"""What this host may have run out of, or no longer has -> what helps."""


class EmulatedFleet(Fleet, Protocol):
    """A fleet whose devices are processes of this host: what an emulated backend makes."""

    idle_private_bytes: list[int]  # memory of each worker that stands and holds no block

    def network_pids(self) -> dict[str, int]:
        """Return a process in the network namespace of each device, for `testbed exec`."""


def run(folder: Path) -> int:
    """Carry out the run that the folder's manifest describes, and return the exit code of this process."""
    log = RunLog(folder)
    log.journaled = True
    manifest = log.read_manifest()
    options = manifest["options"]
    experiment = Experiment.from_dict(manifest["experiment"])
    prompt = prompt_ids(experiment)
    language = language_for(experiment)
    tokenizer = language.tokenizer if language is not None else None
    ends = language.ends if language is not None and not experiment.ignore_eos else ()
    policy = make_policy(experiment.policy, experiment.policy_options, experiment.placement)
    base = summary_base(folder, manifest["backend"], experiment)
    summary = base | unfinished()
    fleet: EmulatedFleet | None = None
    controller: Controller | None = None
    past = read_past(folder) if options["resumed"] else None
    try:
        if past is not None:
            rewind(log, past)
            log.journal(Resumed(time.time()))
        log.reserve()
        host = HostCalibration.from_dict(manifest["calibration"], str(folder))
        places = Path(options["sockets"]), Path(options["state"])
        fleet = find_backend(manifest["backend"]).make_fleet(FleetSetting(experiment, len(prompt), host, *places))
        with shown(experiment, tokenizer, options["stream"], options["progress"]) as progress:
            controller = Controller(
                experiment, prompt, fleet, policy, log, progress, options["calibrate"], host, ends, past
            )
            outcome = controller.run()
        summary = base | run_summary(experiment, controller, fleet, outcome, options["share_host"], options["resumed"])
        if options["hold"] and outcome.status == "done":
            _hold(folder, fleet)
        fleet.stop()
        if options["verify"] and outcome.tokens:
            summary["verified"], summary["verification"] = verify(experiment, prompt, outcome)
    except KeyboardInterrupt:
        summary = base | interrupted()
        if _stays(past, controller):
            raise
    except Exception as error:
        told = error if isinstance(error, TestbedError) else _lacking(error)
        summary |= unfinished(told or error)
        if told is None:
            raise
        if _stays(past, controller):
            raise told from error
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the folder must be completed and the fleet taken down
        if controller is not None:
            summary["tokens"] = controller.outcome.tokens
            summary["text"] = text_of(controller.outcome.tokens, tokenizer)
        try:
            if fleet is not None:
                fleet.stop()
                manifest["facts"] = fleet.facts() | {"idle_private_bytes": fleet.idle_private_bytes}
        finally:
            if _stays(past, controller):
                log.close()
            else:
                log.finish(summary, manifest)
    return int(summary["exit_code"])


def _stays(past: Past | None, controller: Controller | None) -> bool:
    """Whether the run stays as it was found: it was to be resumed, and did not come to that."""
    return past is not None and (controller is None or not controller.begun)


def _lacking(error: Exception) -> EnvironmentLacks | None:
    """Return what this host has run out of, if that is what the error says; None for an error that is a bug."""
    if not isinstance(error, OSError | zmq.ZMQError) or error.errno not in REMEDIES:
        return None
    where = getattr(error, "filename", None)
    return EnvironmentLacks(f"{where or 'the run'}: {error.strerror}; {REMEDIES[error.errno]}")


def _hold(folder: Path, fleet: EmulatedFleet) -> None:
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
    """Start here: in the capsule, or as a plain child of the process that waits."""
    from testbed.emulation.capsule import prepare_inner

    folder, sockets = map(Path, sys.argv[1:])
    try:
        prepare_inner()  # a Ctrl-C that came while everything above was loaded is delivered here
        with given_to_sudo_user():  # files outside the run folder, such as a compiled policy
            code = run(folder)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except TestbedError as error:  # the folder could not take the summary
        code = error.exit_code
        with suppress(OSError):
            (sockets / LAST_WORDS).write_text(json.dumps({"error": str(error), "exit_code": code}))
    sys.exit(code)


if __name__ == "__main__":
    main()
