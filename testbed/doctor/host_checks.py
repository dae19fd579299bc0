"""The doctor's checks: the kernels, a capsule, a shaped link, netem, a memory limit that kills, and the cores.

In full also how well it emulates: rates, steps, delays and paced compute, against what is promised (`bench_link`,
`bench_delay`, `bench_held`, `bench_compute`). Each check makes what a run would make, and leaves nothing.
`network_checks` has those that need a network; they run in a capsule.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from typing import TYPE_CHECKING

from testbed.doctor.finding import BUSY_REMEDY, Finding, failure, measured, tried
from testbed.errors import TestbedError
from testbed.programs import complaint
from testbed.units import format_duration

if TYPE_CHECKING:
    from testbed.controller.host_speed import HostSpeed
    from testbed.doctor.bench_compute import ComputeMeasured
    from testbed.doctor.bench_delay import DelayMeasured

VICTIM_BYTES = 96 * 2**20
LIMIT_BYTES = 64 * 2**20
VICTIM_PATIENCE_S = 30.0
TRIALS_PATIENCE_S = {"quick": 120.0, "full": 300.0, "netem": 300.0}
OTHERS_NOTED = 0.1  # others' share of the cores' time during a measurement that is worth a note
MEMORY_REMEDY = (
    "run as root, or below a delegated cgroup v2 (systemd-run --user --scope -p Delegate=yes); runs go on without: the "
    "workers' own ledgers then hold the budgets"
)
# The instructions that the kernels use, by the kind of machine and the level that `kernels.c` chooses there.
VECTORS = {("x86_64", 2): "AVX-512", ("x86_64", 1): "AVX2", ("aarch64", 0): "NEON"}
SPEED_REMEDY = "see the error; runs go on, and each is judged by its own verdict"


def examine() -> list[Finding]:
    """All checks, in the order in which they build on each other."""
    from testbed.decoder.compiled import REMEDY

    mininet = _mininet()
    findings = [tried("kernels", True, REMEDY, _kernels), *mininet]
    findings += examine_network() if all(finding.ok for finding in mininet) else []
    findings.append(tried("memory limit", False, MEMORY_REMEDY, _memory))
    return [*findings, tried("devices at once", False, SPEED_REMEDY, _speed)]


def measure() -> list[Finding]:
    """How well this machine emulates: links, netem, messages that are held, and paced compute; takes a minute."""
    from testbed.doctor.bench_compute import DUE_S, measure_compute
    from testbed.doctor.bench_delay import DELAYS_S
    from testbed.doctor.bench_held import measure_held

    return [
        *examine_network("full"),
        *measure_netem(),
        *(_held_finding(measure_held(delay_s)) for delay_s in DELAYS_S),
        *(_pace_finding(measure_compute(due_s)) for due_s in DUE_S),
    ]


def measure_netem() -> list[Finding]:
    """What netem's delays, jitters and losses really are, in both directions; nothing where the kernel has no netem."""
    return examine_network("netem")


def _kernels() -> Finding:
    """The decoder's arithmetic, without which no device computes."""
    from testbed.decoder.compiled import load

    vectors = VECTORS.get((platform.machine(), load().best_level()), "its plain form")
    return Finding("kernels", True, True, f"the decoder's arithmetic is compiled, and uses {vectors}")


def _mininet() -> list[Finding]:
    """The software that Mininet needs, and a capsule; a run asks the same question."""
    from testbed.emulation.mininet_checks import PROGRAMS, mininet_support

    support = mininet_support()
    missing, no_capsule = support.missing_software, support.no_capsule
    user = "" if os.geteuid() == 0 else " in a user namespace"
    return [
        Finding(
            "Mininet", not missing, True, "; ".join(missing) or f"its package, and {', '.join(PROGRAMS)}, are here",
            "install what is missing with apt-get, or all of it with script/setup",
        ),
        Finding(
            "capsule", no_capsule is None, True,
            no_capsule or f"made own PID, mount and network namespaces{user}", "allow user namespaces, or run as root",
        ),
    ]  # fmt: skip


def examine_network(effort: str = "quick") -> list[Finding]:
    """The checks that need a capsule, run in one."""
    from testbed.emulation.capsule import unshare_command

    patience_s = TRIALS_PATIENCE_S[effort]
    try:
        trial = subprocess.run(
            [*unshare_command(), sys.executable, "-m", "testbed.doctor.network_checks", effort],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=patience_s, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        said = f"the trials in a capsule did not end within {patience_s:g} s: this machine is far too slow or busy"
    else:
        lines = trial.stdout.strip().splitlines()
        if not trial.returncode and lines:
            return [Finding(**line) for line in json.loads(lines[-1])]
        said = f"the trials in a capsule failed: {complaint(trial.returncode, trial.stderr)}"
    return [Finding("emulated network", False, True, said, "see the error; runs end with the same one")]


def _memory() -> Finding:
    """Check that a process that exceeds its limit is killed, and that the kernel counts it."""
    from testbed.emulation.cgroups import DeviceCgroup, detect

    mode = detect()
    if not mode.enforced:
        return Finding("memory limit", False, False, mode.reason, MEMORY_REMEDY)
    group = None
    try:
        group = DeviceCgroup.create(mode, f"doctor-{os.getpid()}", "victim")
        group.set_limit(LIMIT_BYTES)
        eat = f"open({str(group.memory_path / 'cgroup.procs')!r}, 'w').write('0'); b = bytearray({VICTIM_BYTES})"
        ended = subprocess.run([sys.executable, "-c", eat], capture_output=True, timeout=VICTIM_PATIENCE_S, check=False)
        kills = group.oom_kills()
    except (TestbedError, OSError, subprocess.TimeoutExpired) as error:
        return Finding("memory limit", False, False, failure(error), MEMORY_REMEDY)
    finally:
        if group is not None:
            group.kill_and_remove()
    killed = ended.returncode == -9 and kills >= 1
    fate = "killed and counted" if killed else f"not killed ({complaint(ended.returncode, ended.stderr)})"
    detail = f"{mode.reason}; a process over its limit was {fate}"
    return Finding("memory limit", killed, False, detail, "the kernel must enforce memory limits without swap")


def _speed() -> Finding:
    from testbed.doctor.bench_concurrency import measure_speed

    speed, others = measure_speed()
    return judge_speed(speed, others)


def judge_speed(speed: HostSpeed, others: float = 0.0) -> Finding:
    """How fast devices that compute at once may be; `others` is the share of the cores that others used meanwhile."""
    from testbed.controller.host_speed import fastest_Bps, told_rates

    detail = f"so fast each may stream, by how many compute at once: {told_rates(speed)}"
    busy = others > OTHERS_NOTED
    if busy:
        detail += f"; others used {100 * others:.0f} % of the cores meanwhile: alone it is faster"
    figures = {f"at_once_{each.count}_Bps": fastest_Bps(speed, each.count) for each in speed.together}
    return Finding(
        "devices at once", True, False, detail, BUSY_REMEDY if busy else "", slow=busy,
        measured={"streaming_Bps": speed.streaming_Bps, "others_share": others, **figures},
    )  # fmt: skip


def _held_finding(found: DelayMeasured) -> Finding:
    detail = (
        f"a receiver held messages for {1e3 * found.added_s:.3f} ms (median; 95 % at most {1e3 * found.p95_s:.3f} ms) "
        f"where {1e3 * found.asked_s:g} ms are asked for; it may be {1e3 * found.allowed_s:.2g} ms off"
    )
    return measured(f"held delay {format_duration(found.asked_s)}", found, detail)


def _pace_finding(found: ComputeMeasured) -> Finding:
    detail = (
        f"mean {100 * found.mean_error:+.2f} % off the device model, 95 % of {found.count} blocks within "
        f"{100 * found.p95_error:.2f} %"
    )
    return measured(f"compute, blocks of {format_duration(round(found.due_s, 4))}", found, detail)
