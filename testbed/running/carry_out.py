"""Carrying out one run from the outside: prepare its folder, let it run, clean up, and read how it ended.

An emulated run is a process of its own, `testbed.running.run_process`, in a capsule if its backend needs one. This side
imports no torch: it waits, passes Ctrl-C on, and removes what the run leaves, however it ended. A simulated run takes
place in this process.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from testbed.controller.calibration import HostCalibration, host_calibration
from testbed.errors import INTERRUPTED, ConfigError, EnvironmentLacks, FidelityError, RunFailed, TestbedError
from testbed.experiment.schema import Experiment
from testbed.runlog.folder import SUMMARY, RunLog, read_json
from testbed.runlog.writing import FOLDER_GONE, lost
from testbed.running.backends import find_backend
from testbed.running.ownership import given_to_sudo_user
from testbed.running.remarks import Tell, tell_log
from testbed.running.request import RunRequest
from testbed.signals import held_signals
from testbed.version import __version__

# All devices share one core in User-Mode Linux, and a message costs five times the software (docs/adr/0011).
GUEST_DILATION = 2.0
LAST_WORDS = "last-words.json"  # in the socket folder: why a run ended that could not write its summary


def carry_out(request: RunRequest, tell: Tell = tell_log, host: HostCalibration | None = None) -> dict[str, Any]:
    """Carry out one run and return its summary, whatever its status.

    `host` is what is known of this host; by default, what its calibration file says. Raises ConfigError if the backend
    refuses the run or no placement can fit, EnvironmentLacks if this machine lacks something, and RunFailed if the run
    left no summary.
    """
    with given_to_sudo_user():
        backend = find_backend(request.backend)
        request = replace(request, experiment=at_this_hosts_pace(request.experiment, backend.emulated))
        backend.refuse(request)
        return (_emulate if backend.emulated else _simulate)(request, tell, host or host_calibration())


def at_this_hosts_pace(experiment: Experiment, emulated: bool) -> Experiment:
    """Return the experiment; with `dilation: 2` if it leaves that open and User-Mode Linux is to emulate it."""
    if not emulated or "dilation" in experiment.model_fields_set:
        return experiment
    from testbed.emulation.host import in_user_mode_linux

    if not in_user_mode_linux():
        return experiment
    return experiment.model_copy(update={"dilation": GUEST_DILATION})


def failure(summary: Mapping[str, Any], accept_unfaithful: bool = False) -> TestbedError | None:
    """Return the error that a finished run's summary amounts to; None if the run is as good as it should be."""
    if summary["status"] != "done":
        return RunFailed(summary.get("error") or f"run {summary['run']} failed")
    if summary.get("verified") == "different":
        return RunFailed(f"run {summary['run']}: {summary['verification']}")
    if not summary["verdict"]["ok"] and not accept_unfaithful:
        reasons = "; ".join(summary["verdict"]["reasons"])
        return FidelityError(f"run {summary['run']} finished, but the emulation was not faithful: {reasons}")
    return None


def _simulate(request: RunRequest, tell: Tell, host: HostCalibration) -> dict[str, Any]:
    from testbed.running.simulated_run import simulate

    return simulate(request.experiment, request.out, _manifest(request, host), host)


def _emulate(request: RunRequest, tell: Tell, host: HostCalibration) -> dict[str, Any]:
    def new_folder() -> RunLog:
        return RunLog.create(request.out, request.experiment.name, request.experiment.policy)

    return run_apart(_manifest(request, host), new_folder, tell)


def run_apart(manifest: dict[str, Any], make_log: Callable[[], RunLog], tell: Tell) -> dict[str, Any]:
    """Carry out the run that a manifest describes in a process of its own, and return its summary.

    `make_log` is called once the run's turn on this host has come.
    """
    from testbed.emulation.capsule import launch
    from testbed.emulation.host_lock import host_lock
    from testbed.emulation.state_files import StateFile, clean, take_away

    backend, options = find_backend(manifest["backend"]), manifest["options"]
    clean()
    with ExitStack() as undo:
        if backend.capsule and not options["share_host"]:
            undo.enter_context(host_lock(tell))
        signals = undo.enter_context(held_signals())  # everything made from here on is removed before an interrupt
        log = make_log()
        state = StateFile.create(run_folder=log.folder.resolve())
        try:
            options |= {"sockets": str(state.sockets), "state": str(state.path)}
            log.write_manifest(manifest | {"run": log.folder.name, "id": state.current.run_id})
            log.close()
            code = launch(
                [sys.executable, "-m", "testbed.running.run_process", str(log.folder.resolve()), str(state.sockets)],
                env=os.environ | {"TMPDIR": str(state.sockets)},  # so that a killed run's temporary files are removed
                capsule=backend.capsule,
                hold_signals=True,
                signals=signals,
                on_start=lambda process, init: state.add_process(process, init=init),
            )
            if options["hold"] and code == 0 and signals is not None:
                signals[0].clear()  # they ended the hold, which is no interruption
            last_words = _last_words(state.sockets)
        finally:
            for problem in take_away(state).failures:
                tell(f"Warning: {problem}.")
    if last_words is not None:
        raise last_words
    return _summary_left(log.folder, code)


def _last_words(sockets: Path) -> TestbedError | None:
    """Return the error of a run that could not write its summary; None if it left none."""
    from testbed.emulation.own_files import read_own

    try:
        words = json.loads(read_own(sockets / LAST_WORDS))
    except (FileNotFoundError, ValueError, EnvironmentLacks):
        return None
    kinds = (ConfigError, EnvironmentLacks, RunFailed)
    return next((kind for kind in kinds if kind.exit_code == words["exit_code"]), RunFailed)(words["error"])


def _summary_left(folder: Path, code: int) -> dict[str, Any]:
    """Return the summary that the run left; raises the error of a run that never came to generating."""
    if not (folder / SUMMARY).exists():
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if not folder.exists():
            raise lost(folder, FOLDER_GONE)
        raise RunFailed(
            f"{folder}: the run ended with code {code} before it could write its summary; "
            f"`testbed resume {folder}` goes on with it"
        )
    summary = read_json(folder / SUMMARY)
    if summary["status"] == "interrupted":
        raise KeyboardInterrupt
    for kind in (EnvironmentLacks, ConfigError):
        if summary.get("exit_code") == kind.exit_code:
            raise kind(summary["error"])
    return summary


def _manifest(request: RunRequest, host: HostCalibration) -> dict[str, Any]:
    """Return what is known of a run before it has a folder."""
    experiment = request.experiment
    formats: list[dict[str, Any]] = []
    if experiment.model.files is not None:
        from testbed.decoder.checkpoint import conversions

        formats = conversions(experiment.model.files, experiment.shape)
    return {
        "testbed": __version__,
        "backend": request.backend,
        "provenance": find_backend(request.backend).provenance,
        "experiment_name": experiment.name,
        "policy": experiment.policy,
        "seed": experiment.seed,
        "model_weights": experiment.model.weights_told,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "host": {
            "system": platform.platform(), "python": platform.python_version(), "cores": os.cpu_count(),
            "uid": os.getuid(),
        },
        "calibration": host.to_dict(),
        "options": {
            "verify": request.verify, "hold": request.hold, "share_host": request.share_host,
            "calibrate": request.calibrate, "progress": request.progress and sys.stderr.isatty(),
            "stream": request.stream and sys.stdout.isatty(), "resumed": 0,
        },
        "formats": formats,
        "experiment": experiment.to_dict(),
    }  # fmt: skip
