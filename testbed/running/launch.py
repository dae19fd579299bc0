"""One run from the outside: check everything, prepare its folder, carry it out in a process of its own, clean up.

The process that computes is `testbed.running.inside`, in a capsule for the mininet backend. This side imports no
torch: it waits, forwards Ctrl-C, and removes what the run leaves, however it ended.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from testbed import __version__
from testbed.controller.calibration import HostCalibration, host_calibration
from testbed.decoder.checkpoint import require_weights
from testbed.errors import ConfigError, EnvironmentLacks, RunFailed, TestbedError
from testbed.experiment.schema import Experiment
from testbed.runlog.folder import SUMMARY, RunLog, read_json
from testbed.runlog.writing import FOLDER_GONE, lost
from testbed.running.giving_back import giving_back
from testbed.signals import held_signals

Backend = Literal["mininet", "local", "sim"]
Say = Callable[[str], None]

# All devices share one core in User-Mode Linux, and a message costs five times the software (docs/adr/0011).
GUEST_DILATION = 2.0
LAST_WORDS = "last-words.json"  # in the socket folder: what ended a run whose folder takes no summary


class NothingFits(ConfigError):
    """No placement of any policy can fit this experiment."""


@dataclass(frozen=True)
class Request:
    """One run to carry out."""

    experiment: Experiment
    backend: Backend
    out: Path
    verify: bool = False
    hold: bool = False
    share_host: bool = False
    calibrate: str = "quick"
    progress: bool = True


def check_experiment(experiment: Experiment, computed: bool = True) -> list[int]:
    """All that can be known to be wrong before anything starts; returns the prompt's ids. Raises ConfigError.

    What is not to be `computed`, but planned or simulated, needs neither weights nor a tokeniser.
    """
    from testbed.experiment.prompt import prompt_ids
    from testbed.placement.cost.memory import nothing_fits
    from testbed.placement.patterns import expand_patterns
    from testbed.placement.policies import make_policy, refuse_exchange
    from testbed.running.lasting import never_lasts
    from testbed.running.planning import first_observation

    make_policy(experiment.policy, experiment.policy_options, experiment.placement)
    refuse_exchange(experiment.policy, experiment.partition, experiment.placement)
    if computed:
        refuse_what_is_not_computed(experiment)
    prompt = prompt_ids(experiment, computed)
    observation = first_observation(experiment, len(prompt))
    if experiment.placement is not None:
        expand_patterns(observation, experiment.placement)
    impossible = nothing_fits(observation)
    if impossible:
        raise NothingFits(f"{experiment.name}: no placement can fit: {impossible}")
    ended = never_lasts(experiment, len(prompt))
    if ended:
        raise NothingFits(f"{experiment.name}: no placement can last to the last token: {ended}")
    return prompt


def choose_backend(wanted: str | None, say: Say) -> Backend:
    """The backend asked for, or mininet where it can run, else local; raises EnvironmentLacks."""
    if wanted == "local" or wanted == "sim":
        return wanted  # type: ignore[return-value]
    from testbed.emulation.mininet_checks import mininet_support

    lacking = mininet_support().lacking
    if lacking is None:
        return "mininet"
    if wanted == "mininet":
        raise EnvironmentLacks(f"backend mininet cannot run here: {lacking}; `--backend local` can")
    say(f"Backend local: {lacking}.")
    return "local"


def refuse_what_is_not_computed(experiment: Experiment) -> None:
    """Raise ConfigError for a model whose shape is known but whose blocks the decoder cannot compute."""
    if experiment.model.path is not None:
        require_weights(Path(experiment.model.path))
    shape = experiment.shape
    if shape.gated_ffn or not shape.biases or not shape.learned_positions:
        raise ConfigError(
            f"{experiment.name}: the decoder computes GPT-2's blocks and not those of {shape.name}, of which only the "
            "shape is known here: use --backend sim"
        )


def at_this_hosts_pace(experiment: Experiment, backend: str | None) -> Experiment:
    """The experiment, `dilation: 2` where it leaves that open and User-Mode Linux is to carry it out."""
    from testbed.emulation.host import in_user_mode_linux

    if backend == "sim" or "dilation" in experiment.model_fields_set or not in_user_mode_linux():
        return experiment
    return experiment.model_copy(update={"dilation": GUEST_DILATION})


def carry_out(request: Request, say: Say, host: HostCalibration | None = None) -> dict[str, Any]:
    """One run from start to end; returns its summary. Raises TestbedError when it could not be carried out.

    `host` is what is known of this host; by default what its file says.
    """
    with giving_back():
        return _carry_out(request, say, host)


def _carry_out(request: Request, say: Say, host: HostCalibration | None) -> dict[str, Any]:
    request = replace(request, experiment=at_this_hosts_pace(request.experiment, request.backend))
    host = host or host_calibration()
    if request.backend == "sim":
        from testbed.running.simulated import refuse_what_is_not_simulated, simulate

        refuse_what_is_not_simulated(request.experiment, request.verify, request.hold)
        return simulate(request.experiment, request.out, _manifest(request, host), host)
    refuse_what_is_not_computed(request.experiment)
    if request.backend == "local":
        for key, value in (("compute", "quota"), ("delay", "netem"), ("switch", "openvswitch")):
            if getattr(request.experiment, key) == value:
                raise ConfigError(f"{request.experiment.name}: {key}: {value} needs the mininet backend")
    from testbed.emulation.capsule import launch
    from testbed.emulation.host_lock import host_lock
    from testbed.emulation.processes import ProcessId
    from testbed.emulation.state_files import StateFile, clean, take_away

    experiment = request.experiment
    clean()
    emulated = request.backend == "mininet" and not request.share_host
    with ExitStack() as undo:
        if emulated:
            undo.enter_context(host_lock(say))
        signals = undo.enter_context(held_signals())  # what is made from here on is taken away
        log = RunLog.create(request.out, experiment.name, experiment.policy)
        state = StateFile.create(run_folder=log.folder.resolve())
        try:
            manifest = _manifest(request, host) | {"run": log.folder.name, "id": state.current.run_id}
            manifest["options"] |= {"sockets": str(state.sockets), "state": str(state.path)}
            log.write_manifest(manifest)
            log.close()
            code = launch(
                [sys.executable, "-m", "testbed.running.inside", str(log.folder.resolve()), str(state.sockets)],
                env=os.environ | {"TMPDIR": str(state.sockets)},  # what a killed run leaves there is cleaned away
                capsule=request.backend == "mininet",
                hold_signals=True,
                signals=signals,
                on_start=lambda process, init: state.record(init=ProcessId.of(init), processes=[ProcessId.of(process)]),
            )
            last_words = _last_words(state.sockets)
        finally:
            for problem in take_away(state).failures:
                say(f"Warning: {problem}.")
    if last_words is not None:
        raise last_words
    return _outcome(log.folder, code)


def _last_words(sockets: Path) -> TestbedError | None:
    """What a run says that could not write its summary."""
    from testbed.emulation.own_files import read_own

    try:
        words = json.loads(read_own(sockets / LAST_WORDS))
    except (FileNotFoundError, ValueError, EnvironmentLacks):
        return None
    kinds = (ConfigError, EnvironmentLacks, RunFailed)
    return next((kind for kind in kinds if kind.exit_code == words["exit_code"]), RunFailed)(words["error"])


def _outcome(folder: Path, code: int) -> dict[str, Any]:
    """The summary the run left; raises the error it ended with when it never got to generating."""
    if not (folder / SUMMARY).exists():
        if code == 130:
            raise KeyboardInterrupt
        if not folder.exists():
            raise lost(folder, FOLDER_GONE)
        raise RunFailed(f"{folder}: the run ended with code {code} before it could write its summary")
    summary = read_json(folder / SUMMARY)
    if summary["status"] == "interrupted":
        raise KeyboardInterrupt
    if summary.get("exit_code") == EnvironmentLacks.exit_code:
        raise EnvironmentLacks(summary["error"])
    if summary.get("exit_code") == ConfigError.exit_code:
        raise ConfigError(summary["error"])
    return summary


def failure(summary: dict[str, Any], accept_unfaithful: bool) -> TestbedError | None:
    """What makes a finished run end with another code than 0."""
    from testbed.errors import FidelityError

    if summary["status"] != "done":
        return RunFailed(summary.get("error") or f"run {summary['run']} failed")
    if summary.get("verified") == "different":
        return RunFailed(f"run {summary['run']}: {summary['verification']}")
    if not summary["verdict"]["ok"] and not accept_unfaithful:
        reasons = "; ".join(summary["verdict"]["reasons"])
        return FidelityError(f"run {summary['run']} finished, but the emulation was not faithful: {reasons}")
    return None


def _manifest(request: Request, host: HostCalibration) -> dict[str, Any]:
    """What is known of a run before it has a folder."""
    experiment = request.experiment
    return {
        "testbed": __version__,
        "backend": request.backend,
        "experiment_name": experiment.name,
        "policy": experiment.policy,
        "seed": experiment.seed,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "host": {
            "system": platform.platform(), "python": platform.python_version(), "cores": os.cpu_count(),
            "uid": os.getuid(),
        },
        "calibration": host.to_dict(),
        "options": {
            "verify": request.verify, "hold": request.hold, "share_host": request.share_host,
            "calibrate": request.calibrate, "progress": request.progress and sys.stderr.isatty(),
        },
        "experiment": experiment.to_dict(),
    }  # fmt: skip
