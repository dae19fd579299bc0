"""The one table of backends: what carries an experiment's devices, under the name that `--backend` takes.

A new backend is one class and one row here. The class implements `testbed.controller.fleet.Fleet`, and if its devices
really compute, `testbed.running.run_process.EmulatedFleet`. No other place compares the names of backends: callers ask
a row what they need to know. A fleet's module is imported only when the fleet is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testbed.errors import ConfigError, EnvironmentLacks

if TYPE_CHECKING:
    from testbed.controller.calibration import HostCalibration
    from testbed.experiment.schema import Experiment
    from testbed.running.remarks import Tell
    from testbed.running.request import RunRequest


@dataclass(frozen=True)
class FleetSetting:
    """What a fleet is made from; a simulated one has neither sockets nor a state file."""

    experiment: Experiment
    prompt_tokens: int
    host: HostCalibration
    sockets: Path | None = None  # the folder for the workers' control sockets
    state_file: Path | None = None  # names all that the run makes outside its folder


@dataclass(frozen=True)
class Backend:
    """One row of the table."""

    name: str
    make_fleet: Callable[[FleetSetting], Any]  # a `Fleet`; of an emulated backend, an `EmulatedFleet`
    refuse: Callable[[RunRequest], None]  # raises ConfigError for a run that this backend cannot carry out
    lacking: Callable[[], str | None] = lambda: None  # why this machine cannot run it, or None
    emulated: bool = True  # its devices really compute, in a process of the run's own; else everything is virtual
    capsule: bool = False  # the run needs namespaces of its own, and waits for other such runs on this host
    chosen_by_default: bool = False  # where the user names none: the first of these that this machine can run
    note: str = ""  # for the help of `--backend`

    @property
    def provenance(self) -> str:
        """What its runs are, as their manifests and summaries say it."""
        return "emulated" if self.emulated else "simulated"


# --- mininet -------------------------------------------------------------------------------------------


def _mininet_fleet(setting: FleetSetting) -> Any:
    from testbed.emulation.mininet_fleet import MininetFleet
    from testbed.emulation.state_files import StateFile

    assert setting.sockets is not None and setting.state_file is not None
    state = StateFile.attach(setting.state_file)
    return MininetFleet(setting.experiment, setting.sockets, _positions(setting), state_file=state)


def _lacking_for_mininet() -> str | None:
    from testbed.emulation.mininet_checks import mininet_support

    return mininet_support().lacking


# --- local ---------------------------------------------------------------------------------------------


def _local_fleet(setting: FleetSetting) -> Any:
    from testbed.emulation.local_fleet import LocalFleet
    from testbed.emulation.spawn import forkserver_pid
    from testbed.emulation.state_files import StateFile

    assert setting.sockets is not None and setting.state_file is not None
    fleet = LocalFleet(setting.experiment, setting.sockets, _positions(setting))
    # There is no capsule to end the forkserver, should it be stopped by a signal when this process is killed.
    forkserver = forkserver_pid()
    assert forkserver is not None
    StateFile.attach(setting.state_file).add_process(forkserver)
    return fleet


def _refuse_on_mininet(request: RunRequest) -> None:
    _refuse_the_papers_cost(request)
    _refuse_without_weights(request)


def _refuse_on_local(request: RunRequest) -> None:
    _refuse_the_papers_cost(request)
    _refuse_without_weights(request)
    for key, value in (("compute", "quota"), ("delay", "netem"), ("switch", "openvswitch")):
        if getattr(request.experiment, key) == value:
            raise ConfigError(f"{request.experiment.name}: {key}: {value} needs the mininet backend")


# --- sim -----------------------------------------------------------------------------------------------


def _simulated_fleet(setting: FleetSetting) -> Any:
    from testbed.simulation.fleet import SimFleet

    hop_s = setting.host.hop_overhead_s / setting.experiment.dilation
    return SimFleet(setting.experiment, setting.prompt_tokens, hop_s)


def _refuse_on_sim(request: RunRequest) -> None:
    if request.verify:
        raise ConfigError("--verify needs logits, and the sim backend computes none: use --backend local or mininet")
    if request.hold:
        raise ConfigError("--hold keeps a network up, and the sim backend has none: use --backend mininet")
    if request.experiment.compute == "native":
        raise ConfigError(
            f"{request.experiment.name}: compute: native is this host's own speed, which the sim backend does not "
            "know; use compute: paced"
        )


# --- the table -----------------------------------------------------------------------------------------


def _refuse_without_weights(request: RunRequest) -> None:
    from testbed.running.check import refuse_without_weights

    refuse_without_weights(request.experiment)


def _refuse_the_papers_cost(request: RunRequest) -> None:
    if request.experiment.cost == "paper":
        raise ConfigError(
            f"{request.experiment.name}: cost: paper is a formula that only --backend sim follows, and real devices "
            "take what they take: use --backend sim or --set cost=schedule"
        )


def _positions(setting: FleetSetting) -> int:
    """Return the length of the longest sequence of the run, in tokens."""
    return setting.prompt_tokens + setting.experiment.tokens


BACKENDS: Mapping[str, Backend] = {
    row.name: row
    for row in (
        Backend(
            "mininet",
            _mininet_fleet,
            _refuse_on_mininet,
            _lacking_for_mininet,
            capsule=True,
            chosen_by_default=True,
        ),
        Backend("local", _local_fleet, _refuse_on_local, chosen_by_default=True),
        Backend("sim", _simulated_fleet, _refuse_on_sim, emulated=False, note="in virtual time, nothing computed"),
    )
}

_BY_DEFAULT = [row.name for row in BACKENDS.values() if row.chosen_by_default]
DEFAULT_TOLD = f"Default: {' where it can run, else '.join(_BY_DEFAULT)}."
"""How the help of `--backend` says which one is chosen."""


def find_backend(name: str) -> Backend:
    """Return the row of this name; raises ConfigError naming the known ones."""
    if name not in BACKENDS:
        raise ConfigError(f"there is no backend {name!r}: it must be one of {', '.join(BACKENDS)}")
    return BACKENDS[name]


def choose_backend(wanted: str | None, tell: Tell) -> str:
    """Return the name of the backend to use: the wanted one, or the first default that this machine can run.

    `tell` hears why it is not the very first default. Raises EnvironmentLacks if the machine lacks something for the
    wanted one.
    """
    if wanted is not None:
        lacking = find_backend(wanted).lacking()
        if lacking is not None:
            raise EnvironmentLacks(f"backend {wanted} cannot run here: {lacking}; `--backend {_fallback()}` can")
        return wanted
    reasons: list[str] = []
    for row in BACKENDS.values():
        if row.chosen_by_default:
            lacking = row.lacking()
            if lacking is None:
                if reasons:
                    tell(f"Backend {row.name}: {reasons[0]}.")
                return row.name
            reasons.append(lacking)
    raise EnvironmentLacks("; ".join(reasons))


def _fallback() -> str:
    return next(row.name for row in BACKENDS.values() if row.chosen_by_default and row.lacking() is None)
