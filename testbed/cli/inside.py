"""The process that carries out one run: `python -m testbed.cli.inside RUN_FOLDER`.

It reads everything from the folder's manifest, puts a fleet, a policy and a controller together, and leaves a
complete run folder. For the mininet backend it is the first process of a capsule: when it ends, all ends.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from testbed.controller.generation import Controller, Outcome
from testbed.controller.verdict import Asked, verdict
from testbed.emulation.process_fleet import ProcessFleet
from testbed.errors import TestbedError
from testbed.experiment import Experiment
from testbed.placement.policies import make_policy
from testbed.prompt import prompt_ids
from testbed.runlog import RunLog
from testbed.summary import summarise

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


@contextmanager
def progress_bar(shown: bool, total: int, label: str) -> Iterator[Callable[[int], None]]:
    """A progress bar over tokens on standard error, where that is a terminal."""
    if not shown:
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=total)
        yield lambda done: progress.update(task, completed=done)


def verify(experiment: Experiment, prompt: list[int], outcome: Outcome) -> tuple[str, str]:
    """Compare every token's logits with the single-process reference: (`bitwise` or `different`, one sentence)."""
    from testbed.decoder.reference import Reference
    from testbed.worker.main import weight_source

    weights = weight_source(experiment.model.path, experiment.shape, experiment.model.seed)
    reference = Reference(experiment.shape, weights, len(prompt) + experiment.tokens)
    expected = reference.generate(prompt, len(outcome.tokens), experiment.prefill_chunk)
    for step, (token, digest, wanted) in enumerate(zip(outcome.tokens, outcome.digests, expected, strict=True)):
        if (token, digest) != (wanted.token_id, wanted.logits_digest):
            return "different", f"the logits of token {step} differ from the single-process reference"
    return "bitwise", f"the logits of all {len(outcome.tokens)} tokens equal the single-process reference bit for bit"


def run(folder: Path) -> int:
    """Carry out the run that `folder`'s manifest describes; returns the process's exit code."""
    log = RunLog(folder)
    manifest = log.read_manifest()
    options = manifest["options"]
    experiment = Experiment.from_dict(manifest["experiment"])
    prompt = prompt_ids(experiment)
    policy = make_policy(experiment.policy, experiment.policy_options, experiment.placement)
    fleet = make_fleet(manifest["backend"], experiment, options, len(prompt) + experiment.tokens)
    base: dict[str, Any] = {
        "run": folder.name, "path": str(folder), "backend": manifest["backend"], "policy": experiment.policy,
        "experiment": experiment.name, "seed": experiment.seed,
    }  # fmt: skip
    code, summary = 0, base | {"status": "failed", "tokens": [], "exit_code": 5, "error": "the run did not finish"}
    recorder = None
    try:
        with progress_bar(options["progress"], experiment.tokens, experiment.policy) as progress:
            controller = Controller(experiment, prompt, fleet, policy, log, progress, options["calibrate"])
            recorder = controller.recorder
            outcome = controller.run()
        summary = base | _summary(experiment, controller, fleet, outcome, options["share_host"])
        if options["hold"] and outcome.status == "done":
            _hold(folder, fleet)
        fleet.stop()
        if options["verify"] and outcome.tokens:
            summary["verified"], summary["verification"] = verify(experiment, prompt, outcome)
    except TestbedError as error:
        code = error.exit_code
        summary = base | {"status": "failed", "tokens": [], "exit_code": code, "error": str(error)}
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


def _asked(experiment: Experiment, shared_host: bool) -> Asked:
    lossy = {cable.name for cable in experiment.topology.links if cable.link.up_loss or cable.link.down_loss}
    for trace in experiment.traces.traces:
        lossy |= {target.removeprefix("link/") for target, quantity in trace.series if quantity == "loss"}
    return Asked(experiment.compute == "paced", experiment.trace_clock == "time", shared_host, lossy)


def _summary(
    experiment: Experiment, controller: Controller, fleet: ProcessFleet, outcome: Outcome, shared_host: bool
) -> dict[str, Any]:
    kept = controller.recorder.kept
    facts = fleet.facts()
    figures = summarise(
        kept["tokens"], kept["migrations"], kept["decisions"], kept["devices"], kept["spans"],
        charge_decision=experiment.charge_decision,
    )  # fmt: skip
    faithful = verdict(kept, facts, controller.calibrated, _asked(experiment, shared_host))
    return {
        "status": outcome.status,
        "error": str(outcome.error) if outcome.error else None,
        "error_kind": type(outcome.error).__name__ if outcome.error else None,
        "exit_code": outcome.error.exit_code if outcome.error else 0,
        "tokens": outcome.tokens,
        "verified": None,
        **figures,
        "oom_kills": fleet.oom_kills(),
        "memory_enforcement": facts["memory"],
        "verdict": faithful,
    }


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
