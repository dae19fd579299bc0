"""One experiment, one policy, one run: what `testbed replay` does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from testbed.controller.startup_calibration import Effort
from testbed.experiment.schema import Experiment
from testbed.running.backends import choose_backend, find_backend
from testbed.running.carry_out import carry_out, failure
from testbed.running.chaos import with_faults
from testbed.running.check import check_experiment
from testbed.running.late_rows import rows_that_wait
from testbed.running.memory_over_time import shortage_ahead
from testbed.running.remarks import Tell, tell_log
from testbed.running.request import Overrides, RunRequest, load_experiment

if TYPE_CHECKING:
    from testbed.analysis import Run


def replay(
    experiment: str | Path | Experiment,
    *,
    backend: str | None = None,
    policy: str | None = None,
    tokens: int | None = None,
    seed: int | None = None,
    chaos: int | None = None,
    overrides: Overrides = (),
    out: str | Path = "runs",
    verify: bool = False,
    hold: bool = False,
    share_host: bool = False,
    calibrate: Effort = "quick",
    accept_unfaithful: bool = False,
    progress: bool = False,
    tell: Tell = tell_log,
) -> Run:
    """Run an experiment once and return the run, loaded from its folder.

    The run's tables are DataFrames in seconds, bytes and bit/s of emulated time; its `summary` is a dict whose keys end
    in their units. The files of the run remain in `run.folder`.

    Args:
        experiment: A YAML file, or an `Experiment`.
        backend: `mininet`, `local` or `sim`; by default mininet where it can run, else local.
        policy: A placement policy, in place of the experiment's: a name, or `file.py:Class`.
        tokens: How many tokens to generate, in place of the experiment's number.
        seed: The run's seed, in place of the experiment's.
        chaos: Draw losses, restarts and pauses of devices from this seed. The manifest has them as a trace.
        overrides: Other keys of the experiment: `key=value` texts, or a mapping from dotted keys to values.
        out: The folder in which the run's folder is made.
        verify: Compare every token's logits with those of the single-process reference, bit for bit.
        hold: Keep the network up at the end, until Ctrl-C.
        share_host: Do not wait until other emulated runs on this host have ended.
        calibrate: How thoroughly links and host are measured before token 0: `off`, `quick` or `full`.
        accept_unfaithful: Return the run even if the emulation was not faithful.
        progress: Draw a bar on standard error, if that is a terminal.
        tell: Is called with each remark, a sentence; by default they go to the log `testbed`.

    Raises:
        ConfigError: Something in the experiment or the arguments is wrong, or no placement can fit.
        EnvironmentLacks: This machine lacks what the backend needs.
        FidelityError: The run finished, but the emulation was not faithful.
        RunFailed: The run failed: out of memory, a policy misbehaved, or logits differ from the reference.

    Example:
        >>> import testbed
        >>> run = testbed.replay("experiments/small-scale.yaml", backend="sim", policy="headroom", seed=3)
        >>> run.tokens["latency_s"].mean(), run.summary["mean_token_ms"], run.folder
    """
    loaded = load_experiment(experiment, overrides, policy=policy, tokens=tokens, seed=seed)
    loaded = loaded if chaos is None else with_faults(loaded, chaos)
    summary = replay_once(
        loaded, backend, Path(out), tell, verify=verify, hold=hold, share_host=share_host, calibrate=calibrate,
        progress=progress,
    )  # fmt: skip
    failed = failure(summary, accept_unfaithful)
    if failed is not None:
        raise failed
    from testbed.analysis import load

    return load(summary["path"])


def replay_once(
    experiment: Experiment, backend: str | None, out: Path, tell: Tell = tell_log, **options: Any
) -> dict[str, Any]:
    """Check an experiment, carry it out once, and return the summary, whatever its status.

    `options` are those of `RunRequest`. This is `replay` without loading the run: pandas is not imported.
    """
    prompt = check_experiment(experiment, computed=backend is None or find_backend(backend).emulated)
    warning = shortage_ahead(experiment, len(prompt))
    if warning:
        tell(f"Warning: {warning}.")
    waiting = rows_that_wait(experiment)
    if waiting:
        tell(f"Note: {waiting}.")
    return carry_out(RunRequest(experiment, choose_backend(backend, tell), out, **options), tell)
